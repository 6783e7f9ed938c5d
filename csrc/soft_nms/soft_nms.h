#pragma once

// Soft-NMS (Bodla, Singh, Chellappa, Davis: Soft-NMS, ICCV 2017): the box of highest score is kept, the scores of the
// others fall by how much they overlap it, and so on with what remains. Compiled without contraction, as overlap.h
// asks.

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "common/elementary.h"
#include "common/macros.h"
#include "common/overlap.h"

namespace maskrcnn_ops {

template <class C>
struct SoftRule {
  C threshold;    // linear: IoUs from here on lower a score
  C sigma;        // gaussian
  C floor;        // a score that is not above it drops its box
  bool gaussian;  // or linear
};

// The IoU is compared with the threshold, a float64, as nms_rule explains: it is not below it exactly if it is not
// below the smallest number of C that is not.
template <class C>
SoftRule<C> soft_rule(double threshold, double sigma, double floor, bool gaussian) {
  const double limited = threshold < -1 ? -1 : threshold > 2 ? 2 : threshold;
  C bound = static_cast<C>(limited);
  if (static_cast<double>(bound) < limited) bound = std::nextafter(bound, C(3));
  return {bound, static_cast<C>(sigma), static_cast<C>(floor), gaussian};
}

// The score of a dropped box, and of one that is already kept.
template <class C>
HOST_DEVICE C gone() {
  return -std::numeric_limits<C>::infinity();
}

// The score of b after a was kept. Boxes that do not meet leave each other alone, and so do 0/0 and inf/inf.
template <bool gaussian, class C>
HOST_DEVICE C decayed_score(const Box<C>& a, C area_a, const Box<C>& b, C area_b, C score, const SoftRule<C>& rule) {
  const C shared = intersection(a, b);
  const C quotient = iou_of(shared, area_a, area_b);
  const C iou = quotient > C(0) ? quotient : C(0);
  const C rest = C(1) - iou > C(0) ? C(1) - iou : C(0);
  const C factor = gaussian ? exp_of(-(iou * iou) / rule.sigma) : iou >= rule.threshold ? rest : C(1);
  const C result = score * (iou > C(0) ? factor : C(1));
  return result > rule.floor ? result : gone<C>();
}

// A box that may be kept next. Equal scores: the box that came first in the input.
template <class C>
struct Pick {
  C score;
  int64_t place;

  HOST_DEVICE bool behind(C other, int64_t other_place) const {
    return other > score || (other == score && other_place < place);
  }
};

// Decayed scores of the kept boxes, -inf of all others. Boxes [count, 4], scores [count]; groups [count], or null for
// one group: boxes of different groups leave each other alone.
template <class C>
std::vector<C> soft_nms_cpu(const C* boxes, const C* scores, const int64_t* groups, int64_t count,
                            const SoftRule<C>& rule);

// The indices of kept boxes by descending decayed score, equal scores by ascending index.
template <class C>
std::vector<int64_t> kept_by_score(const std::vector<C>& decayed);

// Boxes sorted by group, members of a group in the input's order: `order` [count] tells the box at each place, groups
// [count] the group of each place; both null for one group. decayed [count] as above; sorted [count, 4] and rest
// [count] are memory to work in.
template <class C>
int soft_nms_cuda(const C* boxes, const C* scores, const int64_t* order, const int64_t* groups, int64_t count,
                  const SoftRule<C>& rule, Box<C>* sorted, C* rest, C* decayed, void* stream);

// kept [1]: how many of the scores, which descend, are above -inf.
template <class C>
int count_kept_cuda(const C* scores, int64_t count, int64_t* kept, void* stream);

constexpr int64_t most_soft_nms_boxes = 0x7fffffff;

}  // namespace maskrcnn_ops
