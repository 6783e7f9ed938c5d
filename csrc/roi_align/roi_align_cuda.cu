#include "common/cuda_kernel.h"
#include "roi_align/roi_align.h"

namespace maskrcnn_ops {
namespace {

constexpr int threads = 256;
constexpr int most_staged = 512;  // entries of one axis that fit in shared memory; larger grids are sampled directly

// The taps of one RoI. Staged in shared memory once a block where they fit, merged; otherwise computed as needed.
template <class A>
struct StagedTaps {
  TapEntry<A> y[most_staged], x[most_staged];
  int y_count[most_staged], x_count[most_staged];
  RoiAxes<A> axes;
  bool staged;
};

__device__ __forceinline__ bool fits(int grid, int pooled) {
  return pooled <= most_staged && int64_t(2) * grid * pooled <= most_staged;
}

template <class A>
__device__ void stage(StagedTaps<A>& taps, const A* roi, const RoiAlign& args) {
  __syncthreads();  // the previous RoI has been read
  if (threadIdx.x == 0) {
    taps.axes = roi_axes(roi, args);
    taps.staged = fits(taps.axes.y.grid, args.pooled_height) && fits(taps.axes.x.grid, args.pooled_width);
  }
  __syncthreads();
  if (taps.axes.image < 0 || !taps.staged) return;
  for (int p = threadIdx.x; p < args.pooled_height + args.pooled_width; p += blockDim.x) {
    if (p < args.pooled_height) {
      taps.y_count[p] = bin_taps(taps.axes.y, p, args.height, taps.y + 2 * taps.axes.y.grid * p);
    } else {
      const int q = p - args.pooled_height;
      taps.x_count[q] = bin_taps(taps.axes.x, q, args.width, taps.x + 2 * taps.axes.x.grid * q);
    }
  }
  __syncthreads();
}

// Calls gather(row, column, weight) for every tap of the bin.
template <class A, class Gather>
__device__ __forceinline__ void for_each_tap(const StagedTaps<A>& taps, int ph, int pw, const RoiAlign& args,
                                             const Gather& gather) {
  const SampleAxis<A>&ay = taps.axes.y, &ax = taps.axes.x;
  if (taps.staged) {
    const TapEntry<A>* ys = taps.y + 2 * ay.grid * ph;
    const TapEntry<A>* xs = taps.x + 2 * ax.grid * pw;
    for (int i = 0; i < taps.y_count[ph]; ++i)
      for (int j = 0; j < taps.x_count[pw]; ++j) gather(ys[i].cell, xs[j].cell, ys[i].weight * xs[j].weight);
    return;
  }
  for (int i = 0; i < 2 * ay.grid; ++i) {
    const Tap<A> y = tap_at(sample_point(ay, ph, i / 2), args.height);
    const A wy = (i % 2 ? y.high_weight : y.low_weight) / static_cast<A>(ay.grid);
    if (wy == A(0)) continue;
    for (int j = 0; j < 2 * ax.grid; ++j) {
      const Tap<A> x = tap_at(sample_point(ax, pw, j / 2), args.width);
      const A wx = (j % 2 ? x.high_weight : x.low_weight) / static_cast<A>(ax.grid);
      if (wx != A(0)) gather(i % 2 ? y.high : y.low, j % 2 ? x.high : x.low, wy * wx);
    }
  }
}

// Forward, any strides. A block computes 64 channels of one RoI; a thread computes one bin for four channels at a
// time, so a tap's position and weight serve four independent loads. Consecutive threads take consecutive bins:
// the output is written in order, and the reads of a warp lie in a few rows of the map. Deterministic.
constexpr int channels_a_block = 64, channels_a_thread = 4;

template <class T>
__global__ void __launch_bounds__(threads, 2)
    forward_strided(const T* __restrict__ input, MapStrides in, const Acc<T>* __restrict__ rois, T* __restrict__ output,
                    MapStrides out, RoiAlign args) {
  using A = Acc<T>;
  __shared__ StagedTaps<A> taps;
  const int bins = args.pooled_height * args.pooled_width;
  const int first = blockIdx.y * channels_a_block, last = min(first + channels_a_block, args.channels);
  for (int64_t r = blockIdx.x; r < args.rois; r += gridDim.x) {
    stage(taps, rois + 5 * r, args);
    const T* map = input + (taps.axes.image < 0 ? 0 : taps.axes.image) * in.image;
    const int groups = parts(last - first, channels_a_thread);
    for (int item = threadIdx.x; item < groups * bins; item += threads) {
      const int c = first + item / bins * channels_a_thread;
      const int ph = item % bins / args.pooled_width, pw = item % bins % args.pooled_width;
      A sums[channels_a_thread] = {};
      if (taps.axes.image >= 0)
        for_each_tap(taps, ph, pw, args, [&](int y, int x, A weight) {
          const T* source = map + y * in.row + x * in.column + c * in.channel;
#pragma unroll
          for (int k = 0; k < channels_a_thread; ++k)
            if (c + k < last) sums[k] += weight * to_acc(source[k * in.channel]);
        });
      T* target = output + r * out.image + c * out.channel + ph * out.row + pw * out.column;
#pragma unroll
      for (int k = 0; k < channels_a_thread; ++k)
        if (c + k < last) target[k * out.channel] = from_acc<T>(sums[k]);
    }
  }
}

// Forward, channels_last with 16-byte packs of channels. A block computes up to 64 packs of one RoI, a thread one pack
// of one bin at a time; consecutive threads take consecutive packs, so every access of a warp is one run of 512 bytes.
// Deterministic.
constexpr int packs_a_block = 64;

template <class T>
__global__ void __launch_bounds__(threads, 2)
    forward_packed(const T* __restrict__ input, MapStrides in, const Acc<T>* __restrict__ rois, T* __restrict__ output,
                   MapStrides out, RoiAlign args) {
  using A = Acc<T>;
  constexpr int size = Pack<T>::size;
  __shared__ StagedTaps<A> taps;
  const int bins = args.pooled_height * args.pooled_width;
  const int first = blockIdx.y * packs_a_block, mine = min(packs_a_block, args.channels / size - first);
  for (int64_t r = blockIdx.x; r < args.rois; r += gridDim.x) {
    stage(taps, rois + 5 * r, args);
    const T* map = input + (taps.axes.image < 0 ? 0 : taps.axes.image) * in.image;
    for (int item = threadIdx.x; item < mine * bins; item += threads) {
      const int c = (first + item % mine) * size, bin = item / mine;
      const int ph = bin / args.pooled_width, pw = bin % args.pooled_width;
      A sums[size] = {};
      if (taps.axes.image >= 0)
        for_each_tap(taps, ph, pw, args, [&](int y, int x, A weight) {
          const auto pack = *reinterpret_cast<const Pack<T>*>(map + y * in.row + x * in.column + c);
#pragma unroll
          for (int k = 0; k < size; ++k) sums[k] += weight * to_acc(pack.values[k]);
        });
      Pack<T> pack;
#pragma unroll
      for (int k = 0; k < size; ++k) pack.values[k] = from_acc<T>(sums[k]);
      *reinterpret_cast<Pack<T>*>(output + r * out.image + ph * out.row + pw * out.column + c) = pack;
    }
  }
}

// Backward, any strides. A block owns a tile of one image's cells for eight channels; a thread owns one cell. The
// block walks the RoIs in their order, keeps those that may reach the tile, and puts each one's weights for the
// tile's rows and columns into shared memory; then each thread gathers the bins that its cell contributed to. Every
// gradient is written once by the thread that owns it: no atomics, deterministic by construction.
template <class T>
__global__ void __launch_bounds__(threads, 2)
    backward_tiles(const T* __restrict__ grad_output, MapStrides out, const Acc<T>* __restrict__ rois,
                   T* __restrict__ grad_input, MapStrides in, RoiAlign args) {
  using A = Acc<T>;
  constexpr int most_weights = 1024;
  __shared__ A weights[2 * most_weights];
  __shared__ int candidates[threads];
  __shared__ int warp_counts[threads / 32];
  A* const wy = weights;
  A* const wx = weights + most_weights;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const bool tabulated = args.pooled_height * BackwardTile::rows <= most_weights &&
                         args.pooled_width * BackwardTile::columns <= most_weights;

  for (int64_t n = blockIdx.z; n < args.images; n += gridDim.z) {
    const BackwardTile tile(n, blockIdx.x, blockIdx.y, args);
    const int y = tile.first_row + static_cast<int>(threadIdx.x) / BackwardTile::columns;
    const int x = tile.first_column + static_cast<int>(threadIdx.x) % BackwardTile::columns;
    const bool inside = y < args.height && x < args.width;
    A sums[BackwardTile::channels] = {};

    for (int64_t base = 0; base < args.rois; base += threads) {
      // Compact the RoIs of this batch that may touch the tile, in order.
      const int64_t mine = base + threadIdx.x;
      const bool hit = mine < args.rois && tile.touches(roi_axes(rois + 5 * mine, args), args);
      const unsigned votes = __ballot_sync(0xffffffffu, hit);
      __syncthreads();
      if (lane == 0) warp_counts[warp] = __popc(votes);
      __syncthreads();
      int before = __popc(votes & ((1u << lane) - 1u)), count = 0;
      for (int w = 0; w < threads / 32; ++w) {
        if (w < warp) before += warp_counts[w];
        count += warp_counts[w];
      }
      if (hit) candidates[before] = static_cast<int>(threadIdx.x);
      __syncthreads();

      for (int k = 0; k < count; ++k) {
        const int64_t r = base + candidates[k];
        const RoiAxes<A> axes = roi_axes(rois + 5 * r, args);
        if (tabulated) {
          __syncthreads();  // the previous RoI's weights have been read
          for (int i = threadIdx.x; i < args.pooled_height * BackwardTile::rows; i += threads)
            wy[i] = cell_weight(axes.y, i / BackwardTile::rows, args.height, tile.first_row + i % BackwardTile::rows);
          for (int i = threadIdx.x; i < args.pooled_width * BackwardTile::columns; i += threads)
            wx[i] = cell_weight(axes.x, i / BackwardTile::columns, args.width,
                                tile.first_column + i % BackwardTile::columns);
          __syncthreads();
        }
        if (!inside) continue;
        const T* grad = grad_output + r * out.image + tile.first_channel * out.channel;
        for (int ph = 0; ph < args.pooled_height; ++ph) {
          const A weight_y =
              tabulated ? wy[ph * BackwardTile::rows + (y - tile.first_row)] : cell_weight(axes.y, ph, args.height, y);
          if (weight_y == A(0)) continue;
          for (int pw = 0; pw < args.pooled_width; ++pw) {
            const A weight_x = tabulated ? wx[pw * BackwardTile::columns + (x - tile.first_column)]
                                         : cell_weight(axes.x, pw, args.width, x);
            if (weight_x == A(0)) continue;
            const A weight = weight_y * weight_x;
            const T* source = grad + ph * out.row + pw * out.column;
#pragma unroll
            for (int c = 0; c < BackwardTile::channels; ++c)
              if (tile.first_channel + c < args.channels) sums[c] += weight * to_acc(source[c * out.channel]);
          }
        }
      }
    }
    if (inside) {
      T* target = grad_input + tile.image * in.image + tile.first_channel * in.channel + y * in.row + x * in.column;
#pragma unroll
      for (int c = 0; c < BackwardTile::channels; ++c)
        if (tile.first_channel + c < args.channels) target[c * in.channel] = from_acc<T>(sums[c]);
    }
  }
}

template <class T>
bool packs(const T* map, MapStrides strides, int64_t channels) {
  constexpr int64_t n = Pack<T>::size;
  return strides.channel == 1 && channels % n == 0 && is_aligned(map) && strides.image % n == 0 &&
         strides.row % n == 0 && strides.column % n == 0;
}

}  // namespace

template <class T>
int roi_align_cuda(const T* input, MapStrides in, const Acc<T>* rois, T* output, MapStrides out, const RoiAlign& args,
                   void* stream) {
  const auto s = static_cast<cudaStream_t>(stream);
  if (packs(input, in, args.channels) && packs(output, out, args.channels)) {
    const dim3 grid(grid_of(args.rois), parts(args.channels / Pack<T>::size, packs_a_block));
    forward_packed<<<grid, threads, 0, s>>>(input, in, rois, output, out, args);
  } else {
    const dim3 grid(grid_of(args.rois), parts(args.channels, channels_a_block));
    forward_strided<<<grid, threads, 0, s>>>(input, in, rois, output, out, args);
  }
  return cudaGetLastError();
}

template <class T>
int roi_align_backward_cuda(const T* grad_output, MapStrides out, const Acc<T>* rois, T* grad_input, MapStrides in,
                            const RoiAlign& args, void* stream) {
  static_assert(BackwardTile::rows * BackwardTile::columns == threads);
  const dim3 grid(BackwardTile::tiles(args), parts(args.channels, BackwardTile::channels),
                  static_cast<unsigned>(std::min<int64_t>(args.images, 65535)));
  backward_tiles<<<grid, threads, 0, static_cast<cudaStream_t>(stream)>>>(grad_output, out, rois, grad_input, in, args);
  return cudaGetLastError();
}

#define INSTANTIATE(T)                                                                                      \
  template int roi_align_cuda(const T*, MapStrides, const Acc<T>*, T*, MapStrides, const RoiAlign&, void*); \
  template int roi_align_backward_cuda(const T*, MapStrides, const Acc<T>*, T*, MapStrides, const RoiAlign&, void*);
INSTANTIATE(Half)
INSTANTIATE(BFloat16)
INSTANTIATE(float)
INSTANTIATE(double)

}  // namespace maskrcnn_ops
