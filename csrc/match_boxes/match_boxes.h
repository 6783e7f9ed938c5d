#pragma once

// Assignment of boxes to ground truth by IoU (Ren et al., Faster R-CNN, 2015, section 3.1.2) with running best values
// in place of the matrix of IoUs. First each box's best ground truth and each ground truth's best IoU, then the
// decision: a box keeps its best ground truth from `high` on, and at any IoU if it ties the best of some ground truth.

#include <cstdint>

#include "common/anchors.h"
#include "common/overlap.h"

namespace maskrcnn_ops {

constexpr int64_t below_low = -1;    // background
constexpr int64_t between_two = -2;  // neither matched nor background

template <class C>
struct MatchRule {
  int64_t truths;
  C high, low;
  bool low_quality;
};

// An IoU that is not a number counts as 0: 0/0, a NaN coordinate, infinite sides.
template <class C>
HOST_DEVICE C match_iou(const Box<C>& truth, C truth_area, const Box<C>& box, C box_area) {
  const C iou = iou_of(intersection(truth, box), truth_area, box_area);
  return iou > C(0) ? iou : C(0);
}

// The first ground truth of the largest IoU; without any overlap that is the first of all.
template <class C>
struct BestTruth {
  C iou;
  int64_t index;

  HOST_DEVICE void see(C other, int64_t other_index) {
    if (other > iou) {
      iou = other;
      index = other_index;
    }
  }
};

template <class C>
HOST_DEVICE int64_t decide(const BestTruth<C>& best, bool ties, const MatchRule<C>& rule) {
  if (rule.truths == 0) return below_low;
  if (ties || best.iou >= rule.high) return best.index;
  return best.iou >= rule.low ? between_two : below_low;
}

// Where the boxes come from: stored, or from AnchorPyramid.
template <class C>
struct StoredBoxes {
  const C* boxes;
  int64_t count;

  using Place = int64_t;
  HOST_DEVICE int64_t size() const { return count; }
  HOST_DEVICE Place place(int64_t i) const { return i; }
  HOST_DEVICE void advance(Place& place) const { ++place; }
  HOST_DEVICE Box<C> anchor(const Place& place) const { return load_box(boxes + 4 * place); }
};

// truths [G, 4]; matches, ious [boxes.size()]. Boxes is StoredBoxes<C> or AnchorPyramid<C>. On CUDA truth_best [G] is
// scratch of 8-byte words.
template <class C, class Boxes>
void match_boxes_cpu(const C* truths, const Boxes& boxes, int64_t* matches, C* ious, const MatchRule<C>& rule);
template <class C, class Boxes>
int match_boxes_cuda(const C* truths, const Boxes& boxes, int64_t* matches, C* ious, int64_t* truth_best,
                     const MatchRule<C>& rule, void* stream);

}  // namespace maskrcnn_ops
