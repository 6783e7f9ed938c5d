// The box code of one block of boxes at one SIMD level (see common/simd.h).

#include "common/columns.inl"

namespace maskrcnn_ops {
namespace SIMD_LEVEL {

template <class C>
using Block = Columns<C, block_size>;

template <class C, class Anchors>
SIMD_INLINE void anchor_columns(const Anchors& anchors, int64_t first, int64_t count, Block<C>& columns) {
  if (count < block_size) columns = {};
  auto place = anchors.place(first);
  for (int64_t k = 0; k < count; ++k) {
    const Box<C> anchor = anchors.anchor(place);
    columns.values[0][k] = anchor.x1;
    columns.values[1][k] = anchor.y1;
    columns.values[2][k] = anchor.x2;
    columns.values[3][k] = anchor.y2;
    anchors.advance(place);
  }
}

template <class C>
FLATTEN void encode_block(const C* boxes, const C* anchors, C* deltas, int64_t count, const BoxCoder<C>& coder) {
  Block<C> box, anchor, delta;
  load_columns(boxes, count, box);
  load_columns(anchors, count, anchor);
  for (int axis = 0; axis < 2; ++axis) {
    const AxisCoder<C> one = axis_of(coder, axis);
    for (int k = 0; k < block_size; ++k) {
      const Code<C> code = encode_axis<C>({box.values[axis][k], box.values[axis + 2][k]},
                                          {anchor.values[axis][k], anchor.values[axis + 2][k]}, one);
      delta.values[axis][k] = code.shift;
      delta.values[axis + 2][k] = code.log_scale;
    }
  }
  store_columns(delta, count, deltas);
}

template <class C>
FLATTEN void encode_backward_block(const C* grad_deltas, const C* boxes, const C* anchors, C* grad_boxes,
                                   C* grad_anchors, int64_t count, const BoxCoder<C>& coder) {
  Block<C> grad, box, anchor;
  load_columns(grad_deltas, count, grad);
  load_columns(boxes, count, box);
  load_columns(anchors, count, anchor);
  for (int axis = 0; axis < 2; ++axis) {
    const AxisCoder<C> one = axis_of(coder, axis);
    for (int k = 0; k < block_size; ++k) {
      const SpanPair<C> pair = encode_axis_backward<C>({grad.values[axis][k], grad.values[axis + 2][k]},
                                                       {box.values[axis][k], box.values[axis + 2][k]},
                                                       {anchor.values[axis][k], anchor.values[axis + 2][k]}, one);
      box.values[axis][k] = pair.box.low;
      box.values[axis + 2][k] = pair.box.high;
      anchor.values[axis][k] = pair.anchor.low;
      anchor.values[axis + 2][k] = pair.anchor.high;
    }
  }
  store_columns(box, count, grad_boxes);
  store_columns(anchor, count, grad_anchors);
}

template <class C, class Anchors>
FLATTEN void decode_block(const C* deltas, const Anchors& anchors, int64_t first, C* boxes, int64_t count,
                          const BoxCoder<C>& coder) {
  Block<C> delta, anchor;
  load_columns(deltas, count, delta);
  anchor_columns(anchors, first, count, anchor);
  for (int axis = 0; axis < 2; ++axis) {
    const AxisCoder<C> one = axis_of(coder, axis);
    for (int k = 0; k < block_size; ++k) {
      const Span<C> span = decode_axis<C>({delta.values[axis][k], delta.values[axis + 2][k]},
                                          {anchor.values[axis][k], anchor.values[axis + 2][k]}, one);
      delta.values[axis][k] = span.low;
      delta.values[axis + 2][k] = span.high;
    }
  }
  store_columns(delta, count, boxes);
}

template <class C, class Anchors>
FLATTEN void decode_backward_block(const C* grad_boxes, const C* deltas, const Anchors& anchors, int64_t first,
                                   C* grad_deltas, int64_t count, const BoxCoder<C>& coder) {
  Block<C> grad, delta, anchor;
  load_columns(grad_boxes, count, grad);
  load_columns(deltas, count, delta);
  anchor_columns(anchors, first, count, anchor);
  for (int axis = 0; axis < 2; ++axis) {
    const AxisCoder<C> one = axis_of(coder, axis);
    for (int k = 0; k < block_size; ++k) {
      const Code<C> code = decode_axis_backward<C>({grad.values[axis][k], grad.values[axis + 2][k]},
                                                   {delta.values[axis][k], delta.values[axis + 2][k]},
                                                   {anchor.values[axis][k], anchor.values[axis + 2][k]}, one);
      delta.values[axis][k] = code.shift;
      delta.values[axis + 2][k] = code.log_scale;
    }
  }
  store_columns(delta, count, grad_deltas);
}

}  // namespace SIMD_LEVEL
}  // namespace maskrcnn_ops
