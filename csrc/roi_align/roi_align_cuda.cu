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
__device__ void stage(StagedTaps<A>& taps, Rois<A> rois, int64_t r, const RoiAlign& args) {
  __syncthreads();  // the previous RoI has been read
  if (threadIdx.x == 0) {
    taps.axes = roi_axes(rois, r, args);
    taps.staged = fits(taps.axes.y.grid, args.pooled_height) && fits(taps.axes.x.grid, args.pooled_width);
  }
  __syncthreads();
  if (taps.axes.image < 0 || !taps.staged) return;
  const Level& level = args.levels[taps.axes.level];
  for (int p = threadIdx.x; p < args.pooled_height + args.pooled_width; p += blockDim.x) {
    if (p < args.pooled_height) {
      taps.y_count[p] = bin_taps(taps.axes.y, p, level.height, taps.y + 2 * taps.axes.y.grid * p);
    } else {
      const int q = p - args.pooled_height;
      taps.x_count[q] = bin_taps(taps.axes.x, q, level.width, taps.x + 2 * taps.axes.x.grid * q);
    }
  }
  __syncthreads();
}

// Calls gather(row, column, weight) for every tap of the bin.
template <class A, class Gather>
__device__ __forceinline__ void for_each_tap(const StagedTaps<A>& taps, int ph, int pw, const Level& level,
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
    const Tap<A> y = tap_at(sample_point(ay, ph, i / 2), level.height);
    const A wy = (i % 2 ? y.high_weight : y.low_weight) / static_cast<A>(ay.grid);
    if (wy == A(0)) continue;
    for (int j = 0; j < 2 * ax.grid; ++j) {
      const Tap<A> x = tap_at(sample_point(ax, pw, j / 2), level.width);
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
    forward_strided(const __grid_constant__ Maps<const T> maps, const Rois<Acc<T>> rois, T* __restrict__ output,
                    const MapStrides out, const __grid_constant__ RoiAlign args) {
  using A = Acc<T>;
  __shared__ StagedTaps<A> taps;
  const int bins = args.pooled_height * args.pooled_width;
  const int first = blockIdx.y * channels_a_block, last = min(first + channels_a_block, args.channels);
  for (int64_t r = blockIdx.x; r < args.rois; r += gridDim.x) {
    stage(taps, rois, r, args);
    const Level& level = args.levels[taps.axes.level];
    const MapStrides in = level.strides;
    const T* __restrict__ const map =
        maps.level[taps.axes.level] + (taps.axes.image < 0 ? 0 : taps.axes.image) * in.image;
    const int groups = parts(last - first, channels_a_thread);
    for (int item = threadIdx.x; item < groups * bins; item += threads) {
      const int c = first + item / bins * channels_a_thread;
      const int ph = item % bins / args.pooled_width, pw = item % bins % args.pooled_width;
      A sums[channels_a_thread] = {};
      if (taps.axes.image >= 0)
        for_each_tap(taps, ph, pw, level, [&](int y, int x, A weight) {
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
    forward_packed(const __grid_constant__ Maps<const T> maps, const Rois<Acc<T>> rois, T* __restrict__ output,
                   const MapStrides out, const __grid_constant__ RoiAlign args) {
  using A = Acc<T>;
  constexpr int size = Pack<T>::size;
  __shared__ StagedTaps<A> taps;
  const int bins = args.pooled_height * args.pooled_width;
  const int first = blockIdx.y * packs_a_block, mine = min(packs_a_block, args.channels / size - first);
  for (int64_t r = blockIdx.x; r < args.rois; r += gridDim.x) {
    stage(taps, rois, r, args);
    const Level& level = args.levels[taps.axes.level];
    const MapStrides in = level.strides;
    const T* __restrict__ const map =
        maps.level[taps.axes.level] + (taps.axes.image < 0 ? 0 : taps.axes.image) * in.image;
    for (int item = threadIdx.x; item < mine * bins; item += threads) {
      const int c = (first + item % mine) * size, bin = item / mine;
      const int ph = bin / args.pooled_width, pw = bin % args.pooled_width;
      A sums[size] = {};
      if (taps.axes.image >= 0)
        for_each_tap(taps, ph, pw, level, [&](int y, int x, A weight) {
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

// The maximum, any strides: a thread takes one bin of one channel and walks its samples, keeping the first of equal
// ones, or the first NaN. A tap of weight zero is not read. Deterministic.
template <class T>
__global__ void __launch_bounds__(threads, 2)
    forward_maximum(const __grid_constant__ Maps<const T> maps, const Rois<Acc<T>> rois, T* __restrict__ output,
                    int32_t* __restrict__ argmax, const MapStrides out, const __grid_constant__ RoiAlign args) {
  using A = Acc<T>;
  const int bins = args.pooled_height * args.pooled_width;
  const int first = blockIdx.y * channels_a_block, mine = min(channels_a_block, args.channels - first);
  for (int64_t r = blockIdx.x; r < args.rois; r += gridDim.x) {
    const RoiAxes<A> axes = roi_axes(rois, r, args);
    const Level& level = args.levels[axes.level];
    const MapStrides in = level.strides;
    for (int item = threadIdx.x; item < mine * bins; item += threads) {
      const int c = first + item / bins, ph = item % bins / args.pooled_width, pw = item % bins % args.pooled_width;
      A best = A(0);
      int winner = -1;
      if (axes.image >= 0) {
        const T* map = maps.level[axes.level] + axes.image * in.image + c * in.channel;
#pragma unroll 1
        for (int j = 0; j < axes.y.grid; ++j) {
          const Tap<A> y = tap_at(sample_point(axes.y, ph, j), level.height);
#pragma unroll 1
          for (int i = 0; i < axes.x.grid; ++i) {
            const Tap<A> x = tap_at(sample_point(axes.x, pw, i), level.width);
            auto along_y = [&](int column) {
              A sum = A(0);
              if (y.low_weight != A(0)) sum += y.low_weight * to_acc(map[y.low * in.row + column * in.column]);
              if (y.high_weight != A(0)) sum += y.high_weight * to_acc(map[y.high * in.row + column * in.column]);
              return sum;
            };
            A value = A(0);
            if (x.low_weight != A(0)) value += x.low_weight * along_y(x.low);
            if (x.high_weight != A(0)) value += x.high_weight * along_y(x.high);
            if (winner < 0 || value > best || (value != value && best == best)) {
              best = value;
              winner = j * axes.x.grid + i;
            }
          }
        }
      }
      const int64_t target = r * out.image + c * out.channel + ph * out.row + pw * out.column;
      output[target] = from_acc<T>(best);
      argmax[target] = winner;
    }
  }
}

// Weight with which a cell contributes to the sample that won a bin; `winner` counts as in the forward.
template <class A>
__device__ __forceinline__ A winner_weight(const RoiAxes<A>& axes, int winner, int ph, int pw, const Level& level,
                                           int y, int x) {
  if (winner < 0 || winner >= axes.y.grid * axes.x.grid) return A(0);
  const Tap<A> ty = tap_at(sample_point(axes.y, ph, winner / axes.x.grid), level.height);
  const Tap<A> tx = tap_at(sample_point(axes.x, pw, winner % axes.x.grid), level.width);
  const A wy = (ty.low == y ? ty.low_weight : A(0)) + (ty.high == y ? ty.high_weight : A(0));
  const A wx = (tx.low == x ? tx.low_weight : A(0)) + (tx.high == x ? tx.high_weight : A(0));
  return wy * wx;
}

// Backward, any strides. A block owns a tile of the cells of one image's level for eight channels; a thread owns one
// cell. The block walks the RoIs in their order, keeps those that may reach the tile, and puts each one's weights for
// the tile's rows and columns into shared memory; then each thread gathers the bins that its cell contributed to. Every
// gradient is written once by the thread that owns it: no atomics, deterministic by construction.
template <class T>
__global__ void __launch_bounds__(threads, 2)
    backward_tiles(const T* __restrict__ grad_output, const int32_t* __restrict__ argmax, const MapStrides out,
                   const Rois<Acc<T>> rois, const __grid_constant__ Maps<T> grad_maps,
                   const __grid_constant__ RoiAlign args) {
  using A = Acc<T>;
  constexpr int most_weights = 1024;
  __shared__ A weights[2 * most_weights];
  __shared__ int candidates[threads];
  __shared__ int warp_counts[threads / 32];
  A* const wy = weights;
  A* const wx = weights + most_weights;
  const bool tabulated = args.pooled_height * BackwardTile::rows <= most_weights &&
                         args.pooled_width * BackwardTile::columns <= most_weights;

  for (int64_t n = blockIdx.z; n < args.images; n += gridDim.z) {
    const BackwardTile tile(n, blockIdx.x, blockIdx.y, args);
    const Level& level = args.levels[tile.level];
    const int y = tile.first_row + static_cast<int>(threadIdx.x) / BackwardTile::columns;
    const int x = tile.first_column + static_cast<int>(threadIdx.x) % BackwardTile::columns;
    const bool inside = y < level.height && x < level.width;
    A sums[BackwardTile::channels] = {};

    for (int64_t base = 0; base < args.rois; base += threads) {
      // Compact the RoIs of this batch that may touch the tile, in order.
      const int64_t mine = base + threadIdx.x;
      const bool hit = mine < args.rois && tile.touches(roi_axes(rois, mine, args), args);
      const int count = compact(hit, candidates, warp_counts);

      for (int k = 0; k < count; ++k) {
        const int64_t r = base + candidates[k];
        const RoiAxes<A> axes = roi_axes(rois, r, args);
        if (tabulated) {
          __syncthreads();  // the previous RoI's weights have been read
          for (int i = threadIdx.x; i < args.pooled_height * BackwardTile::rows; i += threads)
            wy[i] = cell_weight(axes.y, i / BackwardTile::rows, level.height, tile.first_row + i % BackwardTile::rows);
          for (int i = threadIdx.x; i < args.pooled_width * BackwardTile::columns; i += threads)
            wx[i] = cell_weight(axes.x, i / BackwardTile::columns, level.width,
                                tile.first_column + i % BackwardTile::columns);
          __syncthreads();
        }
        if (!inside) continue;
        const T* grad = grad_output + r * out.image + tile.first_channel * out.channel;
        for (int ph = 0; ph < args.pooled_height; ++ph) {
          const A weight_y =
              tabulated ? wy[ph * BackwardTile::rows + (y - tile.first_row)] : cell_weight(axes.y, ph, level.height, y);
          if (weight_y == A(0)) continue;
          for (int pw = 0; pw < args.pooled_width; ++pw) {
            const A weight_x = tabulated ? wx[pw * BackwardTile::columns + (x - tile.first_column)]
                                         : cell_weight(axes.x, pw, level.width, x);
            if (weight_x == A(0)) continue;
            const A weight = weight_y * weight_x;
            const T* source = grad + ph * out.row + pw * out.column;
            if (args.maximum) {
              const int32_t* winners = argmax + (source - grad_output);
#pragma unroll 1
              for (int c = 0; c < BackwardTile::channels && tile.first_channel + c < args.channels; ++c) {
                const A value = winner_weight(axes, winners[c * out.channel], ph, pw, level, y, x) *
                                to_acc(source[c * out.channel]);
#pragma unroll
                for (int k = 0; k < BackwardTile::channels; ++k)  // so that the sums stay in registers
                  if (k == c) sums[k] += value;
              }
              continue;
            }
#pragma unroll
            for (int c = 0; c < BackwardTile::channels; ++c)
              if (tile.first_channel + c < args.channels) sums[c] += weight * to_acc(source[c * out.channel]);
          }
        }
      }
    }
    if (inside) {
      const MapStrides& in = level.strides;
      T* target = grad_maps.level[tile.level] + tile.image * in.image + tile.first_channel * in.channel + y * in.row +
                  x * in.column;
#pragma unroll
      for (int c = 0; c < BackwardTile::channels; ++c)
        if (tile.first_channel + c < args.channels) target[c * in.channel] = from_acc<T>(sums[c]);
    }
  }
}

// Gradients of the boxes: a block takes one RoI; its threads walk bins and channels, and their sums meet in a tree in
// shared memory. Of the maximum, only the sample that won counts. Deterministic.
template <class T>
__global__ void __launch_bounds__(threads, 2)
    backward_boxes(const T* __restrict__ grad_output, const int32_t* __restrict__ argmax, const MapStrides out,
                   const __grid_constant__ Maps<const T> maps, const Rois<Acc<T>> rois, Acc<T>* __restrict__ grad_rois,
                   const __grid_constant__ RoiAlign args) {
  using A = Acc<T>;
  __shared__ A shared[4][threads];
  const int bins = args.pooled_height * args.pooled_width;
  for (int64_t r = blockIdx.x; r < args.rois; r += gridDim.x) {
    const RoiAxes<A> axes = roi_axes(rois, r, args);
    const Level& level = args.levels[axes.level];
    const MapStrides in = level.strides;
    A y_start = A(0), y_bin = A(0), x_start = A(0), x_bin = A(0);
    const int samples = axes.y.grid * axes.x.grid;
    const int64_t items = axes.image >= 0 ? int64_t(args.channels) * bins : 0;
    for (int64_t item = threadIdx.x; item < items; item += threads) {
      const int c = static_cast<int>(item / bins), bin = static_cast<int>(item % bins);
      const int ph = bin / args.pooled_width, pw = bin % args.pooled_width;
      const int64_t source = r * out.image + c * out.channel + ph * out.row + pw * out.column;
      const T* map = maps.level[axes.level] + axes.image * in.image + c * in.channel;
      const int winner = args.maximum ? argmax[source] : 0;
      if (winner < 0 || winner >= samples) continue;
      const A grad = to_acc(grad_output[source]) / (args.maximum ? A(1) : static_cast<A>(samples));
#pragma unroll 1
      for (int s = winner; s < (args.maximum ? winner + 1 : samples); ++s) {
        const int j = s / axes.x.grid, i = s % axes.x.grid;
        const A y_point = sample_point(axes.y, ph, j), x_point = sample_point(axes.x, pw, i);
        const Tap<A> y = tap_at(y_point, level.height), x = tap_at(x_point, level.width);
        auto cell = [&](int row, int column) { return to_acc(map[row * in.row + column * in.column]); };
        const A low_low = cell(y.low, x.low), low_high = cell(y.low, x.high);
        const A high_low = cell(y.high, x.low), high_high = cell(y.high, x.high);
        const A dy = grad * slope_at(y_point, level.height) *
                     ((high_low - low_low) * x.low_weight + (high_high - low_high) * x.high_weight);
        const A dx = grad * slope_at(x_point, level.width) *
                     ((low_high - low_low) * y.low_weight + (high_high - high_low) * y.high_weight);
        y_start += dy;
        y_bin += dy * sample_place(axes.y, ph, j);
        x_start += dx;
        x_bin += dx * sample_place(axes.x, pw, i);
      }
    }
    shared[0][threadIdx.x] = y_start;
    shared[1][threadIdx.x] = y_bin;
    shared[2][threadIdx.x] = x_start;
    shared[3][threadIdx.x] = x_bin;
    for (int half = threads / 2; half > 0; half /= 2) {
      __syncthreads();
      if (threadIdx.x < half)
        for (int k = 0; k < 4; ++k) shared[k][threadIdx.x] += shared[k][threadIdx.x + half];
    }
    if (threadIdx.x == 0) {
      const A* roi = rois.boxes + 5 * r;
      const A scale = static_cast<A>(level.spatial_scale);
      CornerGradients<A> y = {A(0), A(0)}, x = {A(0), A(0)};
      if (axes.image >= 0) {
        y = corner_gradients(roi[2], roi[4], scale, args.pooled_height, args.aligned, shared[0][0], shared[1][0]);
        x = corner_gradients(roi[1], roi[3], scale, args.pooled_width, args.aligned, shared[2][0], shared[3][0]);
      }
      A* grad_roi = grad_rois + 5 * r;
      grad_roi[0] = A(0);
      grad_roi[1] = x.low;
      grad_roi[2] = y.low;
      grad_roi[3] = x.high;
      grad_roi[4] = y.high;
    }
    __syncthreads();  // the sums have been read
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
int roi_align_cuda(Maps<const T> maps, Rois<Acc<T>> rois, T* output, int32_t* argmax, MapStrides out,
                   const RoiAlign& args, void* stream) {
  const auto s = static_cast<cudaStream_t>(stream);
  const dim3 grid(grid_of(args.rois), parts(args.channels, channels_a_block));
  bool packed = packs(output, out, args.channels);
  for (int l = 0; l < args.level_count; ++l)
    packed = packed && packs(maps.level[l], args.levels[l].strides, args.channels);
  if (args.maximum) {
    forward_maximum<<<grid, threads, 0, s>>>(maps, rois, output, argmax, out, args);
  } else if (packed) {
    const dim3 packed_grid(grid_of(args.rois), parts(args.channels / Pack<T>::size, packs_a_block));
    forward_packed<<<packed_grid, threads, 0, s>>>(maps, rois, output, out, args);
  } else {
    forward_strided<<<grid, threads, 0, s>>>(maps, rois, output, out, args);
  }
  return cudaGetLastError();
}

template <class T>
int roi_align_backward_cuda(const T* grad_output, const int32_t* argmax, MapStrides out, Rois<Acc<T>> rois,
                            Maps<T> grad_maps, const RoiAlign& args, void* stream) {
  static_assert(BackwardTile::rows * BackwardTile::columns == threads);
  const dim3 grid(BackwardTile::tiles(args), parts(args.channels, BackwardTile::channels),
                  static_cast<unsigned>(std::min<int64_t>(args.images, 65535)));
  backward_tiles<<<grid, threads, 0, static_cast<cudaStream_t>(stream)>>>(grad_output, argmax, out, rois, grad_maps,
                                                                          args);
  return cudaGetLastError();
}

template <class T>
int roi_align_backward_boxes_cuda(const T* grad_output, const int32_t* argmax, MapStrides out, Maps<const T> maps,
                                  Rois<Acc<T>> rois, Acc<T>* grad_rois, const RoiAlign& args, void* stream) {
  backward_boxes<<<grid_of(args.rois), threads, 0, static_cast<cudaStream_t>(stream)>>>(grad_output, argmax, out, maps,
                                                                                        rois, grad_rois, args);
  return cudaGetLastError();
}

#define INSTANTIATE(T)                                                                                               \
  template int roi_align_cuda(Maps<const T>, Rois<Acc<T>>, T*, int32_t*, MapStrides, const RoiAlign&, void*);        \
  template int roi_align_backward_cuda(const T*, const int32_t*, MapStrides, Rois<Acc<T>>, Maps<T>, const RoiAlign&, \
                                       void*);                                                                       \
  template int roi_align_backward_boxes_cuda(const T*, const int32_t*, MapStrides, Maps<const T>, Rois<Acc<T>>,      \
                                             Acc<T>*, const RoiAlign&, void*);
INSTANTIATE(Half)
INSTANTIATE(BFloat16)
INSTANTIATE(float)
INSTANTIATE(double)

}  // namespace maskrcnn_ops
