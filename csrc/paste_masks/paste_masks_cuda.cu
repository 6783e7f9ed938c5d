#include "common/cuda_kernel.h"
#include "paste_masks/paste_masks.h"

// This file is compiled without contraction (-fmad=false), so pixels are decided as on the CPU, to the bit.

namespace maskrcnn_ops {
namespace {

constexpr int threads = 256;
constexpr unsigned pack_part = 4 * threads;  // packs of 16 bytes that a block writes

// One image row of one mask, as a thread meets it.
template <class T, class C>
struct MaskRow {
  const T* mask;
  PasteAxis<C> x;
  PasteTap<C> y;
  int mask_height, mask_width;
  bool covered;

  __device__ __forceinline__ MaskRow(const T* __restrict__ masks, const C* __restrict__ boxes, int64_t d, int row,
                                     const PasteMasks& args)
      : mask(masks + d * args.mask_height * args.mask_width),
        x(axis_x(boxes + 4 * d, args)),
        mask_height(args.mask_height),
        mask_width(args.mask_width) {
    const PasteAxis<C> axis = axis_y(boxes + 4 * d, args);
    const C u = mask_coordinate(axis, row);
    covered = !is_before(axis, u) && !is_beyond(axis, u, mask_height);
    if (covered) y = paste_tap(axis, u);
  }

  // Whether no pixel from `begin` to `end` - 1 reads the mask; coordinates never decrease along the row.
  __device__ __forceinline__ bool misses(int begin, int end) const {
    return !covered || is_before(x, mask_coordinate(x, end - 1)) || is_beyond(x, mask_coordinate(x, begin), mask_width);
  }

  __device__ __forceinline__ Acc<T> cell(int row, int column) const {
    if (row < 1 || row > mask_height || column < 1 || column > mask_width) return Acc<T>(0);
    return to_acc(mask[static_cast<int64_t>(row - 1) * mask_width + column - 1]);
  }

  __device__ __forceinline__ Acc<T> at(int column) const {
    using A = Acc<T>;
    if (!covered) return A(0);
    const C u = mask_coordinate(x, column);
    if (is_before(x, u) || is_beyond(x, u, mask_width)) return A(0);
    const PasteTap<C> tap = paste_tap(x, u);
    const A left = static_cast<A>(tap.low_weight), right = static_cast<A>(tap.high_weight);
    const A low = left * cell(y.low, tap.low) + right * cell(y.low, tap.low + 1);
    const A high = left * cell(y.low + 1, tap.low) + right * cell(y.low + 1, tap.low + 1);
    return static_cast<A>(y.low_weight) * low + static_cast<A>(y.high_weight) * high;
  }
};

// What becomes of a probability.
template <class T>
struct Decide {
  using Out = uint8_t;
  Acc<T> threshold;
  __device__ __forceinline__ uint8_t operator()(Acc<T> value) const { return value > threshold; }
};

template <class T>
struct Keep {
  using Out = T;
  __device__ __forceinline__ T operator()(Acc<T> value) const { return from_acc<T>(value); }
};

// Sixteen bytes of output that arrive element by element, in registers: each is shifted in behind the last.
template <class Out>
struct Packed {
  uint64_t low = 0, high = 0;

  __device__ __forceinline__ void push(Out value) {
    constexpr int bits = 8 * sizeof(Out) % 64;
    low = bits == 0 ? high : low >> bits | high << (64 - bits) % 64;
    high = bits == 0 ? bits_of(value) : high >> bits | bits_of(value) << (64 - bits) % 64;
  }
  __device__ __forceinline__ void store(Out* target) const {
    *reinterpret_cast<ulonglong2*>(target) = make_ulonglong2(low, high);
  }

 private:
  static __device__ __forceinline__ uint64_t bits_of(uint8_t v) { return v; }
  static __device__ __forceinline__ uint64_t bits_of(Half v) { return v.bits; }
  static __device__ __forceinline__ uint64_t bits_of(BFloat16 v) { return v.bits; }
  static __device__ __forceinline__ uint64_t bits_of(float v) { return __float_as_uint(v); }
  static __device__ __forceinline__ uint64_t bits_of(double v) { return __double_as_longlong(v); }
};

// Forward. The output [D, H, W] is one run of memory. A block writes a part of it, a thread 16 bytes at a time (16
// decisions, 4 floats), which may span rows and masks: one access, and the threads of a warp write one run. Nearly all
// of it lies outside the boxes and costs two short divisions for its place, a few flops and the store; the long
// divisions are for the block's place. The mask is read through the read-only cache. Bound by writing the output. No
// sums across threads: deterministic.
template <class T, class C, class Finish>
__global__ void __launch_bounds__(threads, 2)
    paste_packs(const T* __restrict__ masks, const C* __restrict__ boxes, typename Finish::Out* __restrict__ output,
                Finish finish, int64_t total, PasteMasks args) {
  using Out = typename Finish::Out;
  constexpr int n = 16 / sizeof(Out);
  for (int64_t part = blockIdx.x; part * pack_part * n < total; part += gridDim.x) {
    const PastePlace start = place_of(part * pack_part * n, args);
    for (unsigned i = threadIdx.x; i < pack_part; i += threads) {
      const int64_t first = (part * pack_part + i) * n;
      if (first >= total) break;
      PastePlace place = advance(start, i * n, args);
      MaskRow<T, C> row(masks, boxes, place.mask, place.y, args);
      Packed<Out> pack;
      if (place.x + n <= args.width && row.misses(place.x, place.x + n)) {
        const Out outside = finish(0);
#pragma unroll
        for (int k = 0; k < n; ++k) pack.push(outside);
        pack.store(output + first);
        continue;
      }
      const bool whole = first + n <= total;
#pragma unroll 1
      for (int k = 0; k < n && first + k < total; ++k) {
        if (place.x == args.width) {
          place = next_row(place, args);
          row = MaskRow<T, C>(masks, boxes, place.mask, place.y, args);
        }
        const Out value = finish(row.at(place.x));
        ++place.x;
        if (whole) pack.push(value);
        else output[first + k] = value;
      }
      if (whole) pack.store(output + first);
    }
  }
}

template <class A>
__device__ __forceinline__ A sum_of_warp(A value) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(0xffffffffu, value, step);
  return value;
}

// Backward: a warp computes one cell of grad_masks from the pixels that read it, a rectangle of the image. Lanes take
// neighbouring columns, so reads lie in runs; the weights of 32 rows are computed at a time, one a lane, and handed
// round. Each pixel is read by four warps of one block's neighbourhood, mostly from the cache. The order of every sum
// is fixed: deterministic, no atomics.
template <class T, class C>
__global__ void __launch_bounds__(threads, 2)
    gather_gradients(const T* __restrict__ grad_output, const C* __restrict__ boxes, T* __restrict__ grad_masks,
                     int64_t cells, PasteMasks args) {
  using A = Acc<T>;
  const int lane = threadIdx.x % 32;
  const int64_t warps = static_cast<int64_t>(gridDim.x) * (threads / 32);
  for (int64_t i = (static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x) / 32; i < cells; i += warps) {
    const int64_t line = i / args.mask_width, d = line / args.mask_height;
    const int column = static_cast<int>(i - line * args.mask_width) + 1;
    const int row = static_cast<int>(line - d * args.mask_height) + 1;
    const PasteAxis<C> axis_of_x = axis_x(boxes + 4 * d, args), axis_of_y = axis_y(boxes + 4 * d, args);
    // Even lanes look for the columns, odd ones for the rows.
    const PixelRange range =
        lane % 2 ? pixels_of(axis_of_y, args.height, row, row) : pixels_of(axis_of_x, args.width, column, column);
    const PixelRange xs{__shfl_sync(0xffffffffu, range.begin, 0), __shfl_sync(0xffffffffu, range.end, 0)};
    const PixelRange ys{__shfl_sync(0xffffffffu, range.begin, 1), __shfl_sync(0xffffffffu, range.end, 1)};
    const T* image = grad_output + d * args.height * args.width;
    A sum = A(0);
    for (int first_x = xs.begin; first_x < xs.end; first_x += 32) {
      const int x = first_x + lane;
      A column_sum = A(0);
      for (int first_y = ys.begin; first_y < ys.end; first_y += 32) {
        const int y = first_y + lane;
        const A weight = y < ys.end ? static_cast<A>(cell_weight(axis_of_y, mask_coordinate(axis_of_y, y), row)) : A(0);
        const int rows = min(32, ys.end - first_y);
        for (int k = 0; k < rows; ++k) {
          const A row_weight = __shfl_sync(0xffffffffu, weight, k);
          if (x < xs.end) column_sum += row_weight * to_acc(image[static_cast<int64_t>(first_y + k) * args.width + x]);
        }
      }
      if (x < xs.end) sum += static_cast<A>(cell_weight(axis_of_x, mask_coordinate(axis_of_x, x), column)) * column_sum;
    }
    sum = sum_of_warp(sum);
    if (lane == 0) grad_masks[i] = from_acc<T>(sum);
  }
}

template <class T, class C, class Finish>
int launch_forward(const T* masks, const C* boxes, typename Finish::Out* output, const Finish& finish,
                   const PasteMasks& args, void* stream) {
  if (!is_aligned(output)) return cudaErrorInvalidValue;  // a fresh tensor always is
  const int64_t total = args.masks * args.height * args.width;
  const int64_t pixels = int64_t(pack_part) * 16 / sizeof(typename Finish::Out);
  const unsigned blocks = grid_of((total + pixels - 1) / pixels);
  paste_packs<T, C, Finish>
      <<<blocks, threads, 0, static_cast<cudaStream_t>(stream)>>>(masks, boxes, output, finish, total, args);
  return cudaGetLastError();
}

}  // namespace

template <class T, class C>
int paste_masks_cuda(const T* masks, const C* boxes, uint8_t* output, Acc<T> threshold, const PasteMasks& args,
                     void* stream) {
  return launch_forward(masks, boxes, output, Decide<T>{threshold}, args, stream);
}

template <class T, class C>
int paste_probabilities_cuda(const T* masks, const C* boxes, T* output, const PasteMasks& args, void* stream) {
  return launch_forward(masks, boxes, output, Keep<T>{}, args, stream);
}

template <class T, class C>
int paste_probabilities_backward_cuda(const T* grad_output, const C* boxes, T* grad_masks, const PasteMasks& args,
                                      void* stream) {
  const int64_t cells = args.masks * args.mask_height * args.mask_width;
  const unsigned blocks = grid_of((cells * 32 + threads - 1) / threads);
  gather_gradients<<<blocks, threads, 0, static_cast<cudaStream_t>(stream)>>>(grad_output, boxes, grad_masks, cells,
                                                                              args);
  return cudaGetLastError();
}

#define INSTANTIATE_BOXES(T, C)                                                                  \
  template int paste_masks_cuda(const T*, const C*, uint8_t*, Acc<T>, const PasteMasks&, void*); \
  template int paste_probabilities_cuda(const T*, const C*, T*, const PasteMasks&, void*);       \
  template int paste_probabilities_backward_cuda(const T*, const C*, T*, const PasteMasks&, void*);
#define INSTANTIATE(T)        \
  INSTANTIATE_BOXES(T, float) \
  INSTANTIATE_BOXES(T, double)
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(Half)
INSTANTIATE(BFloat16)

}  // namespace maskrcnn_ops
