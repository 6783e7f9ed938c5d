#pragma once

// Keypoints from heatmaps (Mask R-CNN, section 5): each map is enlarged to its box by bicubic interpolation, and the
// largest value's place is the keypoint. The enlarged map is never stored.

#include <cmath>
#include <cstdint>

#include "common/macros.h"
#include "common/maps.h"
#include "common/scalar.h"

namespace maskrcnn_ops {

// heatmaps [regions, keypoints, height, width], contiguous.
struct Heatmaps {
  int64_t regions, keypoints, height, width;
};

// A side of an enlarged map has at most this many positions, whatever the box: work is bounded.
constexpr int64_t most_positions = 8192;

// One axis of a box as whole positions. A side has at least one pixel; position i lies at low + (i + 0.5) * step.
template <class A>
struct Axis {
  int64_t positions;
  A low, step;
};

template <class A>
HOST_DEVICE Axis<A> axis_of(A low, A high) {
  const A length = high - low > A(1) ? high - low : A(1);
  const A whole = std::ceil(length);
  const int64_t positions = whole < A(most_positions) ? static_cast<int64_t>(whole) : most_positions;
  return {positions, low, length / static_cast<A>(positions)};
}

template <class A>
HOST_DEVICE A coordinate(const Axis<A>& axis, int64_t position) {
  return axis.low + (static_cast<A>(position) + A(0.5)) * axis.step;
}

template <class A>
HOST_DEVICE bool is_usable(const A* box) {
  return is_finite(box[0]) && is_finite(box[1]) && is_finite(box[2]) && is_finite(box[3]);
}

// The four cells around a position and their weights: cubic convolution (Keys, 1981) with a = -0.75. Cells outside the
// map repeat its border.
template <class A>
struct CubicTap {
  int64_t cells[4];
  A weights[4];
};

template <class A>
HOST_DEVICE A cubic_near(A t) {  // |t| <= 1
  return (A(1.25) * t - A(2.25)) * t * t + A(1);
}

template <class A>
HOST_DEVICE A cubic_far(A t) {  // 1 <= |t| <= 2
  return ((A(-0.75) * t + A(3.75)) * t - A(6)) * t + A(3);
}

// Position `i` of `positions` on a map of `size` cells.
template <class A>
HOST_DEVICE CubicTap<A> cubic_tap(int64_t i, int64_t positions, int64_t size) {
  const A scale = static_cast<A>(size) / static_cast<A>(positions);
  const A u = (static_cast<A>(i) + A(0.5)) * scale - A(0.5);
  const A below = std::floor(u);
  const A t = u - below;
  CubicTap<A> tap{{}, {cubic_far(t + A(1)), cubic_near(t), cubic_near(A(1) - t), cubic_far(A(2) - t)}};
  for (int k = 0; k < 4; ++k) {
    const int64_t cell = static_cast<int64_t>(below) - 1 + k;
    tap.cells[k] = cell < 0 ? 0 : cell >= size ? size - 1 : cell;
  }
  return tap;
}

// The largest value so far and its place y * columns + x; the first in this order among equals. NaN is never largest.
template <class A>
struct Peak {
  A value;
  int64_t place;
};

template <class A>
HOST_DEVICE bool beats(const Peak<A>& a, const Peak<A>& b) {
  return a.value > b.value || (a.value == b.value && a.place < b.place);
}

// Writes (x, y, 1) and the score.
template <class A>
HOST_DEVICE void write_keypoint(const Peak<A>& peak, const Axis<A>& x, const Axis<A>& y, A* keypoint, A* score) {
  keypoint[0] = coordinate(x, peak.place % x.positions);
  keypoint[1] = coordinate(y, peak.place / x.positions);
  keypoint[2] = A(1);
  *score = peak.value;
}

template <class A>
HOST_DEVICE void write_nothing(A* keypoint, A* score) {
  keypoint[0] = keypoint[1] = keypoint[2] = *score = A(0);
}

// Kernels: boxes [regions, 4], keypoints [regions, keypoints, 3], scores [regions, keypoints].
template <class T>
void heatmaps_to_keypoints_cpu(const T* heatmaps, const Acc<T>* boxes, Acc<T>* keypoints, Acc<T>* scores,
                               const Heatmaps& args);
template <class T>
int heatmaps_to_keypoints_cuda(const T* heatmaps, const Acc<T>* boxes, Acc<T>* keypoints, Acc<T>* scores,
                               const Heatmaps& args, void* stream);

}  // namespace maskrcnn_ops
