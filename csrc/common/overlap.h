#pragma once

// How much two boxes overlap, for the operators that decide by it. The files that include this are compiled without
// contraction (CMakeLists.txt): two boxes must get the same IoU, to the last bit, on every processor.

#include "common/box.h"
#include "common/macros.h"

namespace maskrcnn_ops {

template <class C>
HOST_DEVICE bool has_nan(const Box<C>& box) {
  return box.x1 != box.x1 || box.y1 != box.y1 || box.x2 != box.x2 || box.y2 != box.y2;
}

template <class C>
HOST_DEVICE C area_of(const Box<C>& box) {
  return side(span_x(box)) * side(span_y(box));
}

// Length of the intersection; 0 where there is none, and where infinite ends make a NaN.
template <class C>
HOST_DEVICE C overlap_length(Span<C> a, Span<C> b) {
  const C low = a.low > b.low ? a.low : b.low, high = a.high < b.high ? a.high : b.high;
  return high - low > C(0) ? high - low : C(0);
}

template <class C>
HOST_DEVICE C intersection(const Box<C>& a, const Box<C>& b) {
  return overlap_length(span_x(a), span_x(b)) * overlap_length(span_y(a), span_y(b));
}

// Intersection over union, every operation rounded; NaN for 0/0.
template <class C>
HOST_DEVICE C iou_of(C shared, C area_a, C area_b) {
  return shared / (area_a + area_b - shared);
}

}  // namespace maskrcnn_ops
