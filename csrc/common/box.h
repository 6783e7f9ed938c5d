#pragma once

// Boxes as the kernels see them: corners (x1, y1, x2, y2) at pixel edges. Most formulas treat x and y alike and are
// written for one axis.

#include <cstdint>

#include "common/macros.h"

namespace maskrcnn_ops {

template <class C>
struct Box {
  C x1, y1, x2, y2;
};

// A box along one axis.
template <class C>
struct Span {
  C low, high;
};

template <class C>
HOST_DEVICE Span<C> span_x(const Box<C>& box) {
  return {box.x1, box.x2};
}

template <class C>
HOST_DEVICE Span<C> span_y(const Box<C>& box) {
  return {box.y1, box.y2};
}

template <class C>
HOST_DEVICE Box<C> box_of(Span<C> x, Span<C> y) {
  return {x.low, y.low, x.high, y.high};
}

template <class C>
HOST_DEVICE Box<C> load_box(const C* p) {
  return {p[0], p[1], p[2], p[3]};
}

template <class C>
HOST_DEVICE C side(Span<C> span) {
  return span.high - span.low;
}

template <class C>
HOST_DEVICE C centre(Span<C> span) {
  return span.low + C(0.5) * side(span);
}

// 1 / x where that is a finite number, else 0: degenerate boxes pass no gradient on.
template <class C>
HOST_DEVICE C finite_inverse(C x) {
  const C inverse = C(1) / x;
  return inverse - inverse == C(0) ? inverse : C(0);
}

}  // namespace maskrcnn_ops
