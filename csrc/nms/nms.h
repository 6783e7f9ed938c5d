#pragma once

// Greedy non-maximum suppression: which box suppresses which, for CPU and CUDA, and how the CUDA kernels divide the
// work. The files that include this are compiled without contraction (CMakeLists.txt): two boxes must get the same
// answer, to the last bit of their IoU, on every processor.

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

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

// The threshold as the kernels use it. See nms_rule.
template <class C>
struct NmsRule {
  C bound;     // a pair is suppressed above this IoU
  C share;     // of the area, in the screen
  C smallest;  // areas below it may have lost digits, and so may products with them
};

// The decision: IoU above the bound, the quotient rounded as its dtype rounds it. False for 0/0.
template <class C>
HOST_DEVICE bool suppresses(const Box<C>& a, C area_a, const Box<C>& b, C area_b, const NmsRule<C>& rule) {
  const C shared = intersection(a, b);
  return shared / (area_a + area_b - shared) > rule.bound;
}

// The screen, without a division: what the decision suppresses passes, and little else. With t slightly less than the
// bound, inter / (a + b - inter) > t is inter > (a + b) · t / (1 + t); each box brings its own share of the right side.
template <class C>
HOST_DEVICE bool may_suppress(const Box<C>& a, C share_a, const Box<C>& b, C share_b) {
  return intersection(a, b) > share_a + share_b;
}

// Below 0 the bound suppresses boxes that do not meet: everything passes. Tiny areas pass on the intersection alone,
// and so do negative ones, though the decision never suppresses those.
template <class C>
HOST_DEVICE C share_of(C area, const NmsRule<C>& rule) {
  if (rule.bound < C(0)) return -std::numeric_limits<C>::infinity();
  return area < rule.smallest ? C(0) : area * rule.share;
}

// A quotient of dtype C is above the threshold, a float64, exactly if it is above the largest number of C that is not
// above the threshold. IoUs lie in [0, 1], so thresholds outside [-1, 1] decide as -1 and 1 do.
template <class C>
NmsRule<C> nms_rule(double threshold) {
  const double limited = threshold < -1 ? -1 : threshold > 1 ? 1 : threshold;
  C bound = static_cast<C>(limited);
  if (static_cast<double>(bound) > limited) bound = std::nextafter(bound, C(-2));
  // Five roundings of half an ulp each stand between the IoU and its screen; sixteen ulps leave room.
  const C share = bound / (C(1) + bound) * (C(1) - 16 * std::numeric_limits<C>::epsilon());
  return {bound, share, std::numeric_limits<C>::min() * C(1 << 30)};
}

// Indices of the kept boxes, by descending score, equal scores by ascending index. Boxes [count, 4], scores [count];
// groups [count] or null for one group. A box with a NaN coordinate or score is not kept and suppresses nothing.
template <class C, class S>
std::vector<int64_t> nms_cpu(const C* boxes, const S* scores, const int64_t* groups, int64_t count,
                             const NmsRule<C>& rule);

constexpr int64_t most_nms_boxes = 0x7fffffff;

}  // namespace maskrcnn_ops
