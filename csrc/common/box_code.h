#pragma once

// The box code of Faster R-CNN (Ren et al., 2015). Along each axis a box is coded relative to an anchor as
//     shift     = shift_weight · (centre - anchor centre) / anchor side
//     log_scale = scale_weight · log(side / anchor side).

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

}  // namespace maskrcnn_ops
