#pragma once

// Gradients of the box code (common/box_code.h), and the operators' launchers. Anchors are stored, or computed from the
// index in a grid of cells and never stored (common/anchors.h).

#include <cstdint>

#include "common/anchors.h"
#include "common/box_code.h"

namespace maskrcnn_ops {

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
