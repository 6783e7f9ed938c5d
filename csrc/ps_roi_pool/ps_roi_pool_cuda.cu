#include "common/cuda_kernel.h"
#include "ps_roi_pool/ps_roi_pool.h"

namespace maskrcnn_ops {
namespace {

constexpr int threads = 256;

// Forward, any strides. A thread computes one output: it walks the taps of its bin in the channel that is the bin's
// own, so neighbours share nothing but the RoI, and a tap costs one read and a few instructions. A block takes up to
// 256 consecutive outputs of one RoI, in the order in which they lie in memory: writes are whole runs, and in
// channels_last, where consecutive outputs are channels of one bin, a warp's taps are the same. Deterministic: a thread
// sums alone.
template <template <class> class Bins, class T>
__global__ void __launch_bounds__(threads, 2)
    forward(const T* __restrict__ input, const MapStrides in, const Acc<T>* __restrict__ rois, T* __restrict__ output,
            const MapStrides out, const PsRoiPool args, const int64_t blocks) {
  using A = Acc<T>;
  const int bins = args.bins(), outputs = args.channels * bins, chunks = parts(outputs, threads);
  const bool channels_first = out.column <= out.channel;
  for (int64_t b = blockIdx.x; b < blocks; b += gridDim.x) {
    const int64_t r = b / chunks;
    const int item = static_cast<int>(b % chunks) * threads + static_cast<int>(threadIdx.x);
    if (item >= outputs) continue;
    const int c = channels_first ? item / bins : item % args.channels;
    const int bin = channels_first ? item % bins : item / args.channels;
    const int ph = bin / args.pooled_width, pw = bin % args.pooled_width;
    const PsRoi<Bins, A> roi(rois + 5 * r, args);
    A mean = A(0);
    if (roi.image >= 0) {
      const T* __restrict__ const map =
          input + roi.image * in.image + (static_cast<int64_t>(c) * bins + bin) * in.channel;
      const auto down = roi.y[ph];
      const auto across = roi.x[pw];
#pragma unroll 1
      for (int i = 0; i < down.taps(); ++i) {
        const TapEntry<A> y = down.tap(i);
        if (y.weight == A(0)) continue;
        const T* const row = map + y.cell * in.row;
        for (int j = 0; j < across.taps(); ++j) {
          const TapEntry<A> x = across.tap(j);
          if (x.weight != A(0)) mean += y.weight * x.weight * to_acc(row[x.cell * in.column]);
        }
      }
      mean /= down.divisor() * across.divisor();
    }
    output[r * out.image + c * out.channel + ph * out.row + pw * out.column] = from_acc<T>(mean);
  }
}

// Backward. A block owns a tile of one image's cells for one bin and eight output channels; a thread owns one cell, in
// the eight channels of the map that are the bin's own. The block walks the RoIs in their order, keeps those whose bin
// may read the tile, and puts the bin's weights for the tile's rows and columns into shared memory; then each thread
// adds its share of the bin's gradients. Every gradient is written once by the thread that owns it: no atomics,
// deterministic by construction.
template <template <class> class Bins, class T>
__global__ void __launch_bounds__(threads, 2)
    backward(const T* __restrict__ grad_output, const MapStrides out, const Acc<T>* __restrict__ rois,
             T* __restrict__ grad_input, const MapStrides in, const PsRoiPool args, const int64_t tiles) {
  using A = Acc<T>;
  __shared__ int candidates[threads];
  __shared__ int warp_counts[threads / 32];
  __shared__ A rows[PsTile::rows];
  __shared__ A columns[PsTile::columns];
  const int dy = static_cast<int>(threadIdx.x) / PsTile::columns;
  const int dx = static_cast<int>(threadIdx.x) % PsTile::columns;

  for (int64_t b = blockIdx.x; b < tiles; b += gridDim.x) {
    const PsTile tile(b, args);
    A sums[PsTile::channels] = {};

    for (int64_t base = 0; base < args.rois; base += threads) {
      const int64_t mine = base + threadIdx.x;
      const bool hit = mine < args.rois && tile.may_meet(PsRoi<Bins, A>(rois + 5 * mine, args));
      const int count = compact(hit, candidates, warp_counts);
      for (int k = 0; k < count; ++k) {
        const int64_t r = base + candidates[k];
        __syncthreads();  // the previous RoI's weights have been read
        if (threadIdx.x < PsTile::columns + PsTile::rows) {
          const PsRoi<Bins, A> roi(rois + 5 * r, args);
          const int i = static_cast<int>(threadIdx.x) - PsTile::columns;
          if (i < 0) {
            const auto bin = roi.x[tile.pw];
            columns[threadIdx.x] = bin.weight_of(tile.first_column + static_cast<int>(threadIdx.x)) / bin.divisor();
          } else {
            const auto bin = roi.y[tile.ph];
            rows[i] = bin.weight_of(tile.first_row + i) / bin.divisor();
          }
        }
        __syncthreads();
        const A weight = rows[dy] * columns[dx];
        if (weight == A(0)) continue;
        const T* const grad =
            grad_output + r * out.image + tile.first_channel * out.channel + tile.ph * out.row + tile.pw * out.column;
#pragma unroll
        for (int c = 0; c < PsTile::channels; ++c)
          if (tile.first_channel + c < args.channels) sums[c] += weight * to_acc(grad[c * out.channel]);
      }
    }
    const int y = tile.first_row + dy, x = tile.first_column + dx;
    if (y < args.height && x < args.width) {
      const int bins = args.bins();
      T* const target =
          grad_input + tile.image * in.image + y * in.row + x * in.column +
          (static_cast<int64_t>(tile.first_channel) * bins + tile.ph * args.pooled_width + tile.pw) * in.channel;
#pragma unroll
      for (int c = 0; c < PsTile::channels; ++c)
        if (tile.first_channel + c < args.channels)
          target[static_cast<int64_t>(c) * bins * in.channel] = from_acc<T>(sums[c]);
    }
  }
}

}  // namespace

template <template <class> class Bins, class T>
int ps_roi_pool_cuda(const T* input, MapStrides in, const Acc<T>* rois, T* output, MapStrides out,
                     const PsRoiPool& args, void* stream) {
  const int64_t blocks = args.rois * parts(args.channels * args.bins(), threads);
  forward<Bins>
      <<<grid_of(blocks), threads, 0, static_cast<cudaStream_t>(stream)>>>(input, in, rois, output, out, args, blocks);
  return cudaGetLastError();
}

template <template <class> class Bins, class T>
int ps_roi_pool_backward_cuda(const T* grad_output, MapStrides out, const Acc<T>* rois, T* grad_input, MapStrides in,
                              const PsRoiPool& args, void* stream) {
  static_assert(PsTile::rows * PsTile::columns == threads);
  const int64_t tiles = PsTile::count(args);
  backward<Bins><<<grid_of(tiles), threads, 0, static_cast<cudaStream_t>(stream)>>>(grad_output, out, rois, grad_input,
                                                                                    in, args, tiles);
  return cudaGetLastError();
}

#define INSTANTIATE(Bins, T)                                                                                          \
  template int ps_roi_pool_cuda<Bins>(const T*, MapStrides, const Acc<T>*, T*, MapStrides, const PsRoiPool&, void*);  \
  template int ps_roi_pool_backward_cuda<Bins>(const T*, MapStrides, const Acc<T>*, T*, MapStrides, const PsRoiPool&, \
                                               void*);
#define INSTANTIATE_BOTH(T)   \
  INSTANTIATE(SampledBins, T) \
  INSTANTIATE(WholeBins, T)
INSTANTIATE_BOTH(Half)
INSTANTIATE_BOTH(BFloat16)
INSTANTIATE_BOTH(float)
INSTANTIATE_BOTH(double)

}  // namespace maskrcnn_ops
