#pragma once

// Greedy non-maximum suppression: which box suppresses which, for CPU and CUDA, and how the CUDA kernels divide the
// work. The files that include this are compiled without contraction (CMakeLists.txt): two boxes must get the same
// answer, to the last bit of their IoU, on every processor.

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "common/overlap.h"

namespace maskrcnn_ops {

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
  return iou_of(intersection(a, b), area_a, area_b) > rule.bound;
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

// Which scores take part: those above the floor, or without a floor all but NaN.
template <class S>
struct ScoreFloor {
  S floor;
  bool exists;

  HOST_DEVICE bool passes(S score) const { return exists ? score > floor : score == score; }
};

template <class C, class S>
struct NmsOptions {
  NmsRule<C> rule;
  ScoreFloor<S> floor;
  int64_t most;  // boxes kept of an image
  bool by_all;   // suppressed boxes suppress too: Fast NMS
};

// Boxes [count, 4], scores [count], groups [count] or null for one group.
template <class C, class S>
struct NmsBoxes {
  const C* boxes;
  const S* scores;
  const int64_t* groups;
  int64_t count;
};

// Indices of the kept boxes, by descending score, equal scores by ascending index. `images` [count], or null for one
// image: boxes of different images do not meet either. A box with a NaN coordinate or score is not kept and suppresses
// nothing.
template <class C, class S>
std::vector<int64_t> nms_cpu(const NmsBoxes<C, S>& boxes, const int64_t* images, const NmsOptions<C, S>& options);

// The same for each of `images` images of boxes.count boxes, the first counts[n] of which are there (null: all):
// indices [images, most] into the image's boxes, -1 behind the last, and their number in kept [images].
template <class C, class S>
void padded_nms_cpu(const NmsBoxes<C, S>& boxes, const int64_t* counts, int64_t images, const NmsOptions<C, S>& options,
                    int64_t* indices, int64_t* kept);

constexpr int64_t most_nms_boxes = 0x7fffffff;

}  // namespace maskrcnn_ops
