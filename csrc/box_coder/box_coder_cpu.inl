// The box code of one block of boxes at one SIMD level (see common/simd.h). Rows of four are turned into four
// columns, so that the formulas of box_coder.h vectorise over boxes, and back.

namespace maskrcnn_ops {
namespace SIMD_LEVEL {

template <class C>
struct Columns {
  C values[4][block_size];
};

template <class C>
SIMD_INLINE void load_columns(const C* rows, int64_t count, Columns<C>& columns) {
  if (count < block_size) columns = {};  // the loops below run over whole blocks
  for (int64_t k = 0; k < count; ++k)
    for (int j = 0; j < 4; ++j) columns.values[j][k] = rows[4 * k + j];
}

template <class C>
SIMD_INLINE void store_columns(const Columns<C>& columns, int64_t count, C* rows) {
  for (int64_t k = 0; k < count; ++k)
    for (int j = 0; j < 4; ++j) rows[4 * k + j] = columns.values[j][k];
}

template <class C, class Anchors>
SIMD_INLINE void anchor_columns(const Anchors& anchors, int64_t first, int64_t count, Columns<C>& columns) {
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

// `flatten` inlines the formulas, without which the loops over them would not vectorise.
#define FLATTEN __attribute__((flatten)) inline

template <class C>
FLATTEN void encode_block(const C* boxes, const C* anchors, C* deltas, int64_t count, const BoxCoder<C>& coder) {
  Columns<C> box, anchor, delta;
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
  Columns<C> grad, box, anchor;
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
  Columns<C> delta, anchor;
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
  Columns<C> grad, delta, anchor;
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

#undef FLATTEN

}  // namespace SIMD_LEVEL
}  // namespace maskrcnn_ops
