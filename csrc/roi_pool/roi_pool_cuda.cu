#include "common/cuda_kernel.h"
#include "roi_pool/roi_pool.h"

namespace maskrcnn_ops {
namespace {

constexpr int threads = 256;  // three blocks a multiprocessor leave 80 registers a thread: no spills

// The channels that one thread of the forward takes: a 16-byte pack side by side, or four at a stride.
template <class T, bool packed>
constexpr int channels_a_thread = packed ? Pack<T>::size : 4;
constexpr int groups_a_block = 64;

template <int size>
struct alignas(size * 4 < 16 ? size * 4 : 16) PositionPack {
  int32_t values[size];
};

// Forward. A block computes one RoI and up to 64 groups of channels; a thread takes the bins of its groups one at a
// time, so a bin's cells are found once for all channels of a group. Contiguous maps: consecutive threads take
// consecutive bins, outputs are written in order, and the reads of a warp lie in a few rows of the map. channels_last
// maps (packed): consecutive threads take consecutive packs, every access of a warp is one run of 512 bytes.
// Reads cells of bins that overlap twice, from the cache. Deterministic: a thread decides alone.
template <class T, bool packed>
__global__ void __launch_bounds__(threads, 3)
    forward(const T* __restrict__ input, MapStrides in, const Acc<T>* __restrict__ rois, T* __restrict__ output,
            int32_t* __restrict__ argmax, MapStrides out, RoiPool args, int64_t blocks) {
  using A = Acc<T>;
  constexpr int size = channels_a_thread<T, packed>;
  const int groups = (args.channels + size - 1) / size, chunks = (groups + groups_a_block - 1) / groups_a_block;
  const int bins = args.pooled_height * args.pooled_width;
  for (int64_t b = blockIdx.x; b < blocks; b += gridDim.x) {
    const int64_t r = b / chunks;
    const int first = static_cast<int>(b % chunks) * groups_a_block;
    const int mine = min(groups_a_block, groups - first);
    const RoiBins<A> roi = roi_bins(rois + 5 * r, args);
    for (int item = threadIdx.x; item < mine * bins; item += threads) {  // below 2^30: at most 4096 bins an axis
      const int c = (first + (packed ? item % mine : item / bins)) * size;
      const int bin = packed ? item / mine : item % bins;
      const int ph = bin / args.pooled_width, pw = bin % args.pooled_width;
      CellRange y{0, 0}, x{0, 0};
      if (roi.image >= 0) {
        y = bin_cells(roi.y, ph, args.height);
        x = bin_cells(roi.x, pw, args.width);
      }
      const bool empty = y.last <= y.first || x.last <= x.first;
      A best[size];
      int32_t where[size];
#pragma unroll
      for (int k = 0; k < size; ++k) {
        best[k] = empty ? A(0) : lowest<A>();
        where[k] = -1;
      }
      const T* map = input + roi.image * in.image + c * in.channel;  // not read where empty
      for (int i = y.first; i < y.last; ++i)
        for (int j = x.first; j < x.last; ++j) {
          const T* source = map + i * in.row + j * in.column;
          const int32_t here = i * args.width + j;
          A values[size];
          if constexpr (packed) {
            const auto pack = *reinterpret_cast<const Pack<T>*>(source);
#pragma unroll
            for (int k = 0; k < size; ++k) values[k] = to_acc(pack.values[k]);
          } else {
#pragma unroll
            for (int k = 0; k < size; ++k) values[k] = c + k < args.channels ? to_acc(source[k * in.channel]) : A(0);
          }
#pragma unroll
          for (int k = 0; k < size; ++k)
            if (values[k] > best[k]) {
              best[k] = values[k];
              where[k] = here;
            }
        }
      const int64_t target = r * out.image + c * out.channel + ph * out.row + pw * out.column;
      if constexpr (packed) {
        Pack<T> pack;
        PositionPack<size> positions;
#pragma unroll
        for (int k = 0; k < size; ++k) {
          pack.values[k] = from_acc<T>(best[k]);
          positions.values[k] = where[k];
        }
        *reinterpret_cast<Pack<T>*>(output + target) = pack;
        *reinterpret_cast<PositionPack<size>*>(argmax + target) = positions;
      } else {
#pragma unroll
        for (int k = 0; k < size; ++k)
          if (c + k < args.channels) {
            output[target + k * out.channel] = from_acc<T>(best[k]);
            argmax[target + k * out.channel] = where[k];
          }
      }
    }
  }
}

// Backward. A block owns a tile of one image's cells for eight channels; a thread owns one cell. The block walks the
// RoIs in their order, keeps those that meet the tile, and finds for each the bins that contain each row and column;
// then each thread adds the gradient of those bins whose maximum is its cell. Every gradient is written once by the
// thread that owns it: no atomics, deterministic by construction.
template <class T>
__global__ void __launch_bounds__(threads, 3)
    backward(const T* __restrict__ grad_output, MapStrides grad_strides, const int32_t* __restrict__ argmax,
             MapStrides argmax_strides, const Acc<T>* __restrict__ rois, T* __restrict__ grad_input, MapStrides in,
             RoiPool args, int64_t tiles) {
  using A = Acc<T>;
  __shared__ int candidates[threads];
  __shared__ int warp_counts[threads / 32];
  __shared__ CellRange rows[PoolTile::rows];
  __shared__ CellRange columns[PoolTile::columns];
  const int dy = static_cast<int>(threadIdx.x) / PoolTile::columns;
  const int dx = static_cast<int>(threadIdx.x) % PoolTile::columns;

  for (int64_t b = blockIdx.x; b < tiles; b += gridDim.x) {
    const PoolTile tile(b, args);
    const int y = tile.first_row + dy, x = tile.first_column + dx;
    const bool inside = y < args.height && x < args.width;
    const int32_t cell = inside ? y * args.width + x : -1;
    A sums[PoolTile::channels] = {};

    for (int64_t base = 0; base < args.rois; base += threads) {
      const int64_t mine = base + threadIdx.x;
      const bool hit = mine < args.rois && tile.touches(roi_bins(rois + 5 * mine, args), args);
      const int count = compact(hit, candidates, warp_counts);
      for (int k = 0; k < count; ++k) {
        const int64_t r = base + candidates[k];
        __syncthreads();  // the previous RoI's bins have been read
        if (threadIdx.x < PoolTile::columns) {
          const RoiBins<A> roi = roi_bins(rois + 5 * r, args);
          columns[threadIdx.x] =
              bins_of_cell(roi.x, args.pooled_width, args.width, tile.first_column + static_cast<int>(threadIdx.x));
        } else if (threadIdx.x < PoolTile::columns + PoolTile::rows) {
          const RoiBins<A> roi = roi_bins(rois + 5 * r, args);
          const int i = static_cast<int>(threadIdx.x) - PoolTile::columns;
          rows[i] = bins_of_cell(roi.y, args.pooled_height, args.height, tile.first_row + i);
        }
        __syncthreads();
        if (!inside) continue;
        const T* grad = grad_output + r * grad_strides.image + tile.first_channel * grad_strides.channel;
        const int32_t* where = argmax + r * argmax_strides.image + tile.first_channel * argmax_strides.channel;
        const CellRange across = columns[dx], down = rows[dy];
        for (int ph = down.first; ph < down.last; ++ph)
          for (int pw = across.first; pw < across.last; ++pw) {
            const int bin = ph * args.pooled_width + pw;  // bins lie at one step, row after row
            const int64_t grad_bin = bin * grad_strides.column, argmax_bin = bin * argmax_strides.column;
#pragma unroll
            for (int c = 0; c < PoolTile::channels; ++c)
              if (tile.first_channel + c < args.channels && where[argmax_bin + c * argmax_strides.channel] == cell)
                sums[c] += to_acc(grad[grad_bin + c * grad_strides.channel]);
          }
      }
    }
    if (inside) {
      T* target = grad_input + tile.image * in.image + tile.first_channel * in.channel + y * in.row + x * in.column;
#pragma unroll
      for (int c = 0; c < PoolTile::channels; ++c)
        if (tile.first_channel + c < args.channels) target[c * in.channel] = from_acc<T>(sums[c]);
    }
  }
}

template <class T>
bool packs(const T* map, MapStrides strides, int channels) {
  constexpr int64_t n = Pack<T>::size;
  return strides.channel == 1 && channels % n == 0 && is_aligned(map) && strides.image % n == 0 &&
         strides.row % n == 0 && strides.column % n == 0;
}

template <class T, bool packed>
int launch_forward(const T* input, MapStrides in, const Acc<T>* rois, T* output, int32_t* argmax, MapStrides out,
                   const RoiPool& args, void* stream) {
  constexpr int64_t size = channels_a_thread<T, packed> * groups_a_block;
  const int64_t blocks = args.rois * ((args.channels + size - 1) / size);
  forward<T, packed><<<grid_of(blocks), threads, 0, static_cast<cudaStream_t>(stream)>>>(input, in, rois, output,
                                                                                         argmax, out, args, blocks);
  return cudaGetLastError();
}

}  // namespace

template <class T>
int roi_pool_cuda(const T* input, MapStrides in, const Acc<T>* rois, T* output, int32_t* argmax, MapStrides out,
                  const RoiPool& args, void* stream) {
  if (packs(input, in, args.channels) && packs(output, out, args.channels) && is_aligned(argmax))
    return launch_forward<T, true>(input, in, rois, output, argmax, out, args, stream);
  return launch_forward<T, false>(input, in, rois, output, argmax, out, args, stream);
}

template <class T>
int roi_pool_backward_cuda(const T* grad_output, MapStrides grad_strides, const int32_t* argmax,
                           MapStrides argmax_strides, const Acc<T>* rois, T* grad_input, MapStrides in,
                           const RoiPool& args, void* stream) {
  static_assert(PoolTile::rows * PoolTile::columns == threads);
  const int64_t tiles = PoolTile::count(args);
  backward<<<grid_of(tiles), threads, 0, static_cast<cudaStream_t>(stream)>>>(
      grad_output, grad_strides, argmax, argmax_strides, rois, grad_input, in, args, tiles);
  return cudaGetLastError();
}

#define INSTANTIATE(T)                                                                                                 \
  template int roi_pool_cuda(const T*, MapStrides, const Acc<T>*, T*, int32_t*, MapStrides, const RoiPool&, void*);    \
  template int roi_pool_backward_cuda(const T*, MapStrides, const int32_t*, MapStrides, const Acc<T>*, T*, MapStrides, \
                                      const RoiPool&, void*);
INSTANTIATE(Half)
INSTANTIATE(BFloat16)
INSTANTIATE(float)
INSTANTIATE(double)

}  // namespace maskrcnn_ops
