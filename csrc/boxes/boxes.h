#pragma once

// Overlap of pairs of boxes: intersection over union, and the generalized one (Rezatofighi et al., 2019), which
// subtracts the empty part of the smallest box that encloses both. The operations and their order are torchvision's.

#include <cstdint>

#include "common/box.h"

namespace maskrcnn_ops {

// Sizes of one call: boxes1 [batches, rows, 4], boxes2 [batches, columns, 4], result [batches, rows, columns].
struct Pairs {
  int64_t batches, rows, columns;
};

// One axis of a box that is made of two, with the derivatives of its length by the edges of the first.
template <class C>
struct Extent {
  C length, by_low, by_high;
};

template <class C>
HOST_DEVICE C larger(C a, C b) {
  return a > b ? a : b;
}

template <class C>
HOST_DEVICE C smaller(C a, C b) {
  return a < b ? a : b;
}

// A NaN stays one.
template <class C>
HOST_DEVICE C not_negative(C x) {
  return x < C(0) ? C(0) : x;
}

// Derivative of max(a, b) by a: two equal edges share it.
template <class C>
HOST_DEVICE C share_of_larger(C a, C b) {
  return a > b ? C(1) : (a == b ? C(0.5) : C(0));
}

template <class C>
HOST_DEVICE C area(const Box<C>& box) {
  return side(span_x(box)) * side(span_y(box));
}

template <class C>
HOST_DEVICE C common_length(Span<C> a, Span<C> b) {
  return not_negative(smaller(a.high, b.high) - larger(a.low, b.low));
}

template <class C>
HOST_DEVICE C enclosing_length(Span<C> a, Span<C> b) {
  return not_negative(larger(a.high, b.high) - smaller(a.low, b.low));
}

// Every NaN coordinate makes the union NaN, and with it the result. Boxes without area give 0/0, NaN.
template <bool generalized, class C>
HOST_DEVICE C overlap(const Box<C>& a, const Box<C>& b) {
  const C inter = common_length(span_x(a), span_x(b)) * common_length(span_y(a), span_y(b));
  const C uni = area(a) + area(b) - inter;
  const C iou = inter / uni;
  if (!generalized) return iou;
  const C enclosing = enclosing_length(span_x(a), span_x(b)) * enclosing_length(span_y(a), span_y(b));
  return iou - (enclosing - uni) / enclosing;
}

// Backward. A length that is exactly zero still has its gradient (touching boxes), a negative one has not.
template <class C>
HOST_DEVICE Extent<C> common_extent(Span<C> a, Span<C> b) {
  const C length = smaller(a.high, b.high) - larger(a.low, b.low);
  const C open = length >= C(0) ? C(1) : C(0);
  return {not_negative(length), -open * share_of_larger(a.low, b.low), open * share_of_larger(b.high, a.high)};
}

template <class C>
HOST_DEVICE Extent<C> enclosing_extent(Span<C> a, Span<C> b) {
  const C length = larger(a.high, b.high) - smaller(a.low, b.low);
  const C open = length >= C(0) ? C(1) : C(0);
  return {not_negative(length), -open * share_of_larger(b.low, a.low), open * share_of_larger(a.high, b.high)};
}

// Gradient of grad · overlap(a, b) by a. A pair whose union (or enclosing box) is zero, or not finite, or so small that
// its inverse is not, passes none on.
template <bool generalized, class C>
HOST_DEVICE Box<C> overlap_backward(C grad, const Box<C>& a, const Box<C>& b) {
  const Extent<C> x = common_extent(span_x(a), span_x(b)), y = common_extent(span_y(a), span_y(b));
  const C inter = x.length * y.length;
  const C uni = area(a) + area(b) - inter;
  const C inverse = finite_inverse(uni);
  bool sound = inverse != C(0);
  // The overlap as a function of intersection, area of a and area of the enclosing box: its three derivatives.
  C by_inter = (C(1) + inter * inverse) * inverse, by_area = -(inter * inverse) * inverse, by_enclosing = C(0);
  Extent<C> ex{C(0), C(0), C(0)}, ey = ex;
  if (generalized) {
    ex = enclosing_extent(span_x(a), span_x(b));
    ey = enclosing_extent(span_y(a), span_y(b));
    const C enclosing_inverse = finite_inverse(ex.length * ey.length);
    sound = sound && enclosing_inverse != C(0);
    by_inter -= enclosing_inverse;
    by_area += enclosing_inverse;
    by_enclosing = -(uni * enclosing_inverse) * enclosing_inverse;
  }
  const C of_inter = grad * by_inter, of_area = grad * by_area, of_enclosing = grad * by_enclosing;
  const C width = side(span_x(a)), height = side(span_y(a));
  const Box<C> g{of_inter * x.by_low * y.length - of_area * height + of_enclosing * ex.by_low * ey.length,
                 of_inter * y.by_low * x.length - of_area * width + of_enclosing * ey.by_low * ex.length,
                 of_inter * x.by_high * y.length + of_area * height + of_enclosing * ex.by_high * ey.length,
                 of_inter * y.by_high * x.length + of_area * width + of_enclosing * ey.by_high * ex.length};
  return {sound ? g.x1 : C(0), sound ? g.y1 : C(0), sound ? g.x2 : C(0), sound ? g.y2 : C(0)};
}

// The matrix of pairs in tiles, numbered with the column tile fastest, then row tile, then batch. One tile is one
// task of the CPU, one block of the GPU.
struct PairTiles {
  Pairs pairs;
  int64_t tile_rows, tile_columns;

  struct Tile {
    int64_t batch, first_row, first_column;
  };
  HOST_DEVICE int64_t across() const { return (pairs.columns + tile_columns - 1) / tile_columns; }
  HOST_DEVICE int64_t down() const { return (pairs.rows + tile_rows - 1) / tile_rows; }
  HOST_DEVICE int64_t count() const { return pairs.batches * down() * across(); }
  HOST_DEVICE Tile tile(int64_t i) const {
    return {i / across() / down(), i / across() % down() * tile_rows, i % across() * tile_columns};
  }
};

// Tiles for blocks of `threads` threads, as wide as the narrowest power of two that spans the columns.
inline PairTiles cuda_tiles(const Pairs& pairs, int64_t threads, int64_t rows_a_thread) {
  int64_t across = 1;
  while (across < threads && across < pairs.columns) across *= 2;
  return {pairs, threads / across * rows_a_thread, across};
}

// The gradient of a result [batches, rows, columns] with its strides in elements.
template <class C>
struct PairGradient {
  const C* data;
  int64_t batch, row, column;
};

// Kernels. The backward gives the gradient of boxes1; that of boxes2 is the same with the roles swapped.
template <class C>
void box_iou_cpu(const C* boxes1, const C* boxes2, C* result, const Pairs& pairs, bool generalized);
template <class C>
void box_iou_backward_cpu(const PairGradient<C>& grad, const C* boxes1, const C* boxes2, C* grad_boxes1,
                          const Pairs& pairs, bool generalized);
template <class C>
int box_iou_cuda(const C* boxes1, const C* boxes2, C* result, const Pairs& pairs, bool generalized, void* stream);
template <class C>
int box_iou_backward_cuda(const PairGradient<C>& grad, const C* boxes1, const C* boxes2, C* grad_boxes1,
                          const Pairs& pairs, bool generalized, void* stream);

}  // namespace maskrcnn_ops
