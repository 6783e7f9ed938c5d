#include "box_coder/box_coder.h"
#include "common/cuda_kernel.h"

// All kernels here: one thread owns one row (or one anchor), reads and writes it whole, and shares nothing. They are
// bound by memory traffic: a row moves in 16-byte accesses where the tensors are aligned so, and consecutive threads
// take consecutive rows, so a warp's accesses are one run of memory. No atomics: deterministic.

namespace maskrcnn_ops {
namespace {

constexpr int threads = 256;

template <class C, bool packed>
__device__ __forceinline__ Box<C> read_row(const C* __restrict__ rows, int64_t row) {
  const C* p = rows + 4 * row;
  if constexpr (!packed) return load_box(p);
  C values[4];
  constexpr int n = Pack<C>::size;
#pragma unroll
  for (int i = 0; i < 4; i += n) {
    const auto pack = *reinterpret_cast<const Pack<C>*>(p + i);
#pragma unroll
    for (int j = 0; j < n; ++j) values[i + j] = pack.values[j];
  }
  return load_box(values);
}

template <class C, bool packed>
__device__ __forceinline__ void write_row(C* __restrict__ rows, int64_t row, const Box<C>& box) {
  C* p = rows + 4 * row;
  const C values[4] = {box.x1, box.y1, box.x2, box.y2};
  constexpr int n = packed ? Pack<C>::size : 1;
#pragma unroll
  for (int i = 0; i < 4; i += n) {
    if constexpr (packed) {
      Pack<C> pack;
#pragma unroll
      for (int j = 0; j < n; ++j) pack.values[j] = values[i + j];
      *reinterpret_cast<Pack<C>*>(p + i) = pack;
    } else {
      p[i] = values[i];
    }
  }
}

// A row of deltas (dx, dy, dw, dh) as its codes along x and y, and back.
template <class C>
__device__ __forceinline__ Code<C> code_x(const Box<C>& row) {
  return {row.x1, row.x2};
}

template <class C>
__device__ __forceinline__ Code<C> code_y(const Box<C>& row) {
  return {row.y1, row.y2};
}

template <class C>
__device__ __forceinline__ Box<C> row_of(Code<C> x, Code<C> y) {
  return {x.shift, y.shift, x.log_scale, y.log_scale};
}

// The rows of this thread, a grid's width apart.
#define FOR_EACH_ROW(Index, i, count)                                                 \
  for (Index i = static_cast<Index>(blockIdx.x) * threads + threadIdx.x; i < (count); \
       i += static_cast<Index>(gridDim.x) * threads)

template <class C, bool packed>
__global__ void __launch_bounds__(threads) encode_rows(const C* __restrict__ boxes, const C* __restrict__ anchors,
                                                       C* __restrict__ deltas, int64_t count, BoxCoder<C> coder) {
  const AxisCoder<C> x = axis_of(coder, 0), y = axis_of(coder, 1);
  FOR_EACH_ROW(int64_t, i, count) {
    const Box<C> box = read_row<C, packed>(boxes, i), anchor = read_row<C, packed>(anchors, i);
    write_row<C, packed>(
        deltas, i, row_of(encode_axis(span_x(box), span_x(anchor), x), encode_axis(span_y(box), span_y(anchor), y)));
  }
}

template <class C, bool packed>
__global__ void __launch_bounds__(threads)
    encode_rows_backward(const C* __restrict__ grad_deltas, const C* __restrict__ boxes, const C* __restrict__ anchors,
                         C* __restrict__ grad_boxes, C* __restrict__ grad_anchors, int64_t count, BoxCoder<C> coder) {
  FOR_EACH_ROW(int64_t, i, count) {
    const Box<C> grad = read_row<C, packed>(grad_deltas, i);
    const Box<C> box = read_row<C, packed>(boxes, i), anchor = read_row<C, packed>(anchors, i);
    const SpanPair<C> x = encode_axis_backward(code_x(grad), span_x(box), span_x(anchor), axis_of(coder, 0));
    const SpanPair<C> y = encode_axis_backward(code_y(grad), span_y(box), span_y(anchor), axis_of(coder, 1));
    write_row<C, packed>(grad_boxes, i, box_of(x.box, y.box));
    write_row<C, packed>(grad_anchors, i, box_of(x.anchor, y.anchor));
  }
}

// The anchor is read through the read-only cache (the K rows of one anchor lie side by side) or, on a grid, computed:
// then a box costs 32 bytes of traffic in float, its deltas and itself. `Index` is 32 bits wide where that suffices,
// since finding the place in the grid takes three divisions.
template <class C, class Anchors, class Index, bool packed>
__global__ void __launch_bounds__(threads)
    decode_rows(const C* __restrict__ deltas, Anchors anchors, C* __restrict__ boxes, Index count, BoxCoder<C> coder) {
  FOR_EACH_ROW(Index, i, count) {
    const Box<C> code = read_row<C, packed>(deltas, i);
    const Box<C> anchor = anchors.anchor(anchors.place(i));
    write_row<C, packed>(boxes, i,
                         box_of(decode_axis(code_x(code), span_x(anchor), axis_of(coder, 0)),
                                decode_axis(code_y(code), span_y(anchor), axis_of(coder, 1))));
  }
}

template <class C, class Anchors, class Index, bool packed>
__global__ void __launch_bounds__(threads)
    decode_rows_backward(const C* __restrict__ grad_boxes, const C* __restrict__ deltas, Anchors anchors,
                         C* __restrict__ grad_deltas, Index count, BoxCoder<C> coder) {
  FOR_EACH_ROW(Index, i, count) {
    const Box<C> grad = read_row<C, packed>(grad_boxes, i), code = read_row<C, packed>(deltas, i);
    const Box<C> anchor = anchors.anchor(anchors.place(i));
    write_row<C, packed>(grad_deltas, i,
                         row_of(decode_axis_backward(span_x(grad), code_x(code), span_x(anchor), axis_of(coder, 0)),
                                decode_axis_backward(span_y(grad), code_y(code), span_y(anchor), axis_of(coder, 1))));
  }
}

// One thread sums one anchor's gradient over its classes in their order. Reads of a warp lie K rows apart; this runs
// only where anchors are trained or checked, so it is kept simple.
template <class C, bool packed>
__global__ void __launch_bounds__(threads)
    decode_anchors_backward(const C* __restrict__ grad_boxes, const C* __restrict__ deltas,
                            C* __restrict__ grad_anchors, int64_t anchors, int64_t classes, BoxCoder<C> coder) {
  FOR_EACH_ROW(int64_t, l, anchors) {
    Span<C> x{C(0), C(0)}, y{C(0), C(0)};
    for (int64_t i = l * classes; i < (l + 1) * classes; ++i) {
      const Box<C> grad = read_row<C, packed>(grad_boxes, i), code = read_row<C, packed>(deltas, i);
      const Span<C> dx = decode_axis_backward_anchor(span_x(grad), code_x(code), axis_of(coder, 0));
      const Span<C> dy = decode_axis_backward_anchor(span_y(grad), code_y(code), axis_of(coder, 1));
      x = {x.low + dx.low, x.high + dx.high};
      y = {y.low + dy.low, y.high + dy.high};
    }
    write_row<C, packed>(grad_anchors, l, box_of(x, y));
  }
}

unsigned blocks_of(int64_t rows) { return grid_of((rows + threads - 1) / threads); }

template <class... Pointers>
bool all_aligned(Pointers... pointers) {
  return (is_aligned(pointers) && ...);
}

// Runs launch(packed) with a compile-time bool.
template <class Launch>
int with_packing(bool packed, const Launch& launch) {
  if (packed) launch(std::true_type{});
  else launch(std::false_type{});
  return cudaGetLastError();
}

// Runs launch(index) with an index of 32 bits where `count` and one more grid of threads fit.
template <class Launch>
void with_index(int64_t count, const Launch& launch) {
  if (count < int64_t(1) << 31) launch(static_cast<uint32_t>(count));
  else launch(count);
}

}  // namespace

template <class C>
int encode_boxes_cuda(const C* boxes, const C* anchors, C* deltas, int64_t count, const BoxCoder<C>& coder,
                      void* stream) {
  const auto s = static_cast<cudaStream_t>(stream);
  return with_packing(all_aligned(boxes, anchors, deltas), [&](auto packed) {
    encode_rows<C, packed><<<blocks_of(count), threads, 0, s>>>(boxes, anchors, deltas, count, coder);
  });
}

template <class C>
int encode_boxes_backward_cuda(const C* grad_deltas, const C* boxes, const C* anchors, C* grad_boxes, C* grad_anchors,
                               int64_t count, const BoxCoder<C>& coder, void* stream) {
  const auto s = static_cast<cudaStream_t>(stream);
  return with_packing(all_aligned(grad_deltas, boxes, anchors, grad_boxes, grad_anchors), [&](auto packed) {
    encode_rows_backward<C, packed>
        <<<blocks_of(count), threads, 0, s>>>(grad_deltas, boxes, anchors, grad_boxes, grad_anchors, count, coder);
  });
}

template <class C, class Anchors>
int decode_boxes_cuda(const C* deltas, const Anchors& anchors, C* boxes, int64_t count, const BoxCoder<C>& coder,
                      void* stream) {
  const auto s = static_cast<cudaStream_t>(stream);
  return with_packing(all_aligned(deltas, boxes), [&](auto packed) {
    with_index(count, [&](auto index) {
      decode_rows<C, Anchors, decltype(index), decltype(packed)::value>
          <<<blocks_of(count), threads, 0, s>>>(deltas, anchors, boxes, index, coder);
    });
  });
}

template <class C, class Anchors>
int decode_boxes_backward_cuda(const C* grad_boxes, const C* deltas, const Anchors& anchors, C* grad_deltas,
                               int64_t count, const BoxCoder<C>& coder, void* stream) {
  const auto s = static_cast<cudaStream_t>(stream);
  return with_packing(all_aligned(grad_boxes, deltas, grad_deltas), [&](auto packed) {
    with_index(count, [&](auto index) {
      decode_rows_backward<C, Anchors, decltype(index), decltype(packed)::value>
          <<<blocks_of(count), threads, 0, s>>>(grad_boxes, deltas, anchors, grad_deltas, index, coder);
    });
  });
}

template <class C>
int decode_boxes_backward_anchors_cuda(const C* grad_boxes, const C* deltas, C* grad_anchors, int64_t anchors,
                                       int64_t classes, const BoxCoder<C>& coder, void* stream) {
  const auto s = static_cast<cudaStream_t>(stream);
  return with_packing(all_aligned(grad_boxes, deltas, grad_anchors), [&](auto packed) {
    decode_anchors_backward<C, packed>
        <<<blocks_of(anchors), threads, 0, s>>>(grad_boxes, deltas, grad_anchors, anchors, classes, coder);
  });
}

#define INSTANTIATE_DECODE(C, Anchors)                                                              \
  template int decode_boxes_cuda(const C*, const Anchors&, C*, int64_t, const BoxCoder<C>&, void*); \
  template int decode_boxes_backward_cuda(const C*, const C*, const Anchors&, C*, int64_t, const BoxCoder<C>&, void*);
#define INSTANTIATE(C)                                                                                               \
  INSTANTIATE_DECODE(C, StoredAnchors<C>)                                                                            \
  INSTANTIATE_DECODE(C, GridAnchors<C>)                                                                              \
  template int encode_boxes_cuda(const C*, const C*, C*, int64_t, const BoxCoder<C>&, void*);                        \
  template int encode_boxes_backward_cuda(const C*, const C*, const C*, C*, C*, int64_t, const BoxCoder<C>&, void*); \
  template int decode_boxes_backward_anchors_cuda(const C*, const C*, C*, int64_t, int64_t, const BoxCoder<C>&, void*);
INSTANTIATE(float)
INSTANTIATE(double)

}  // namespace maskrcnn_ops
