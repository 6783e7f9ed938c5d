#pragma once

// The box code of Faster R-CNN (Ren et al., 2015). Along each axis a box is coded relative to an anchor as
//     shift     = shift_weight · (centre - anchor centre) / anchor side
//     log_scale = scale_weight · log(side / anchor side).
// Anchors are stored, or computed from the index in a grid of cells and never stored.

#include <cstdint>

#include "common/box.h"
#include "common/elementary.h"

namespace maskrcnn_ops {

template <class C>
struct Code {
  C shift, log_scale;
};

// weights: of dx, dy, dw, dh. clip: the largest log_scale / weight that is decoded.
template <class C>
struct BoxCoder {
  C weights[4];
  C clip;
};

// One axis of the coder: 0 for x, 1 for y.
template <class C>
struct AxisCoder {
  C shift_weight, scale_weight, clip;
};

template <class C>
HOST_DEVICE AxisCoder<C> axis_of(const BoxCoder<C>& coder, int axis) {
  return {coder.weights[axis], coder.weights[axis + 2], coder.clip};
}

template <class C>
HOST_DEVICE Code<C> encode_axis(Span<C> box, Span<C> anchor, AxisCoder<C> coder) {
  return {coder.shift_weight * (centre(box) - centre(anchor)) / side(anchor),
          coder.scale_weight * log_of(side(box) / side(anchor))};
}

// Gradients of the two spans of encode_axis. Sides of 0, infinity and NaN pass none on.
template <class C>
struct SpanPair {
  Span<C> box, anchor;
};

template <class C>
HOST_DEVICE Span<C> span_gradient(C of_centre, C of_side) {
  return {C(0.5) * of_centre - of_side, C(0.5) * of_centre + of_side};
}

template <class C>
HOST_DEVICE SpanPair<C> encode_axis_backward(Code<C> grad, Span<C> box, Span<C> anchor, AxisCoder<C> coder) {
  const C box_inverse = finite_inverse(side(box)), anchor_inverse = finite_inverse(side(anchor));
  const C shift = coder.shift_weight * grad.shift * anchor_inverse;
  const C scale = coder.scale_weight * grad.log_scale;
  const C distance = (centre(box) - centre(anchor)) * anchor_inverse;
  return {span_gradient(shift, scale * box_inverse),
          span_gradient(-shift, -(shift * distance + scale * anchor_inverse))};
}

// Half the decoded side. A NaN stays one.
template <class C>
HOST_DEVICE C decoded_half_side(C log_scale, C anchor_side, AxisCoder<C> coder) {
  const C wanted = log_scale / coder.scale_weight;
  return C(0.5) * (exp_of(wanted > coder.clip ? coder.clip : wanted) * anchor_side);
}

template <class C>
HOST_DEVICE Span<C> decode_axis(Code<C> code, Span<C> anchor, AxisCoder<C> coder) {
  const C middle = code.shift / coder.shift_weight * side(anchor) + centre(anchor);
  const C half = decoded_half_side(code.log_scale, side(anchor), coder);
  return {middle - half, middle + half};
}

// A clipped log_scale has no gradient; one that equals the clip has.
template <class C>
HOST_DEVICE Code<C> decode_axis_backward(Span<C> grad, Code<C> code, Span<C> anchor, AxisCoder<C> coder) {
  const C half = decoded_half_side(code.log_scale, side(anchor), coder);
  const C of_scale = (grad.high - grad.low) * half / coder.scale_weight;
  return {(grad.low + grad.high) * side(anchor) / coder.shift_weight,
          code.log_scale / coder.scale_weight > coder.clip ? C(0) : of_scale};
}

template <class C>
HOST_DEVICE Span<C> decode_axis_backward_anchor(Span<C> grad, Code<C> code, AxisCoder<C> coder) {
  const C of_centre = grad.low + grad.high;
  const C half_scale = decoded_half_side(code.log_scale, C(1), coder);
  return span_gradient(of_centre, of_centre * (code.shift / coder.shift_weight) + (grad.high - grad.low) * half_scale);
}

// Where the anchors of decoded boxes come from. Both kinds answer the same three questions: the place of box i, the
// anchor at a place, and the place after it (cheaper than a division a box). Index is int64_t, or uint32_t where
// every box index fits.

// Boxes [L · K] of anchors [L]: box i belongs to anchor i / K.
template <class C>
struct StoredAnchors {
  const C* anchors;
  int64_t classes;

  struct Place {
    int64_t row, label;
  };
  template <class Index>
  HOST_DEVICE Place place(Index i) const {
    const Index k = static_cast<Index>(classes);
    return {static_cast<int64_t>(i / k), static_cast<int64_t>(i % k)};
  }
  HOST_DEVICE void advance(Place& place) const {
    if (++place.label < classes) return;
    place.label = 0;
    ++place.row;
  }
  HOST_DEVICE Box<C> anchor(const Place& place) const { return load_box(anchors + 4 * place.row); }
};

// Boxes [N, H, W, A] of a grid: the anchor of (y, x, a) is cell anchor a moved by (x · stride_x, y · stride_y).
template <class C>
struct GridAnchors {
  const C* cell_anchors;
  int64_t height, width, anchors_per_cell;
  C stride_y, stride_x;

  struct Place {
    int64_t y, x, a;
  };
  template <class Index>
  HOST_DEVICE Place place(Index i) const {
    const Index cell = i / static_cast<Index>(anchors_per_cell), w = static_cast<Index>(width);
    return {static_cast<int64_t>(cell / w % static_cast<Index>(height)), static_cast<int64_t>(cell % w),
            static_cast<int64_t>(i % static_cast<Index>(anchors_per_cell))};
  }
  HOST_DEVICE void advance(Place& place) const {
    if (++place.a < anchors_per_cell) return;
    place.a = 0;
    if (++place.x < width) return;
    place.x = 0;
    if (++place.y == height) place.y = 0;  // the next image
  }
  HOST_DEVICE Box<C> anchor(const Place& place) const {
    const Box<C> cell = load_box(cell_anchors + 4 * place.a);
    const C x = static_cast<C>(place.x) * stride_x, y = static_cast<C>(place.y) * stride_y;
    return {cell.x1 + x, cell.y1 + y, cell.x2 + x, cell.y2 + y};
  }
};

// Kernels. Boxes, anchors, deltas and their gradients are rows of four; `count` is the number of rows of deltas.
// Anchors is StoredAnchors<C> or GridAnchors<C>; C is float or double.
template <class C>
void encode_boxes_cpu(const C* boxes, const C* anchors, C* deltas, int64_t count, const BoxCoder<C>& coder);
template <class C>
void encode_boxes_backward_cpu(const C* grad_deltas, const C* boxes, const C* anchors, C* grad_boxes, C* grad_anchors,
                               int64_t count, const BoxCoder<C>& coder);
template <class C, class Anchors>
void decode_boxes_cpu(const C* deltas, const Anchors& anchors, C* boxes, int64_t count, const BoxCoder<C>& coder);
template <class C, class Anchors>
void decode_boxes_backward_cpu(const C* grad_boxes, const C* deltas, const Anchors& anchors, C* grad_deltas,
                               int64_t count, const BoxCoder<C>& coder);
// grad_anchors [anchors, 4], summed over the `classes` boxes of each anchor in their order.
template <class C>
void decode_boxes_backward_anchors_cpu(const C* grad_boxes, const C* deltas, C* grad_anchors, int64_t anchors,
                                       int64_t classes, const BoxCoder<C>& coder);

template <class C>
int encode_boxes_cuda(const C* boxes, const C* anchors, C* deltas, int64_t count, const BoxCoder<C>& coder,
                      void* stream);
template <class C>
int encode_boxes_backward_cuda(const C* grad_deltas, const C* boxes, const C* anchors, C* grad_boxes, C* grad_anchors,
                               int64_t count, const BoxCoder<C>& coder, void* stream);
template <class C, class Anchors>
int decode_boxes_cuda(const C* deltas, const Anchors& anchors, C* boxes, int64_t count, const BoxCoder<C>& coder,
                      void* stream);
template <class C, class Anchors>
int decode_boxes_backward_cuda(const C* grad_boxes, const C* deltas, const Anchors& anchors, C* grad_deltas,
                               int64_t count, const BoxCoder<C>& coder, void* stream);
template <class C>
int decode_boxes_backward_anchors_cuda(const C* grad_boxes, const C* deltas, C* grad_anchors, int64_t anchors,
                                       int64_t classes, const BoxCoder<C>& coder, void* stream);

}  // namespace maskrcnn_ops
