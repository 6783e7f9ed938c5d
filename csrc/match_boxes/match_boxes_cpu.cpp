#include "match_boxes/match_boxes.h"

#include <algorithm>
#include <limits>
#include <mutex>
#include <vector>

#include "common/threads.h"
#include "common/work.h"

// Work partition: a task is a block of boxes, beside all ground truths that reach into the rectangle around it. Anchors
// come in the order of their grid, so a block of them lies together and few ground truths reach it. Each thread keeps
// its own best IoUs of the ground truths; their largest does not depend on the partition.

namespace maskrcnn_ops {
namespace {

constexpr int block_size = 64;  // boxes: the columns of a block stay in the L1 cache
constexpr int64_t grain = 64;   // blocks a thread: below it starting a thread costs more than it saves

template <class C>
Box<C> nothing() {
  constexpr C infinity = std::numeric_limits<C>::infinity();
  return {infinity, infinity, -infinity, -infinity};
}

// NaN is passed over: such a box overlaps nothing.
template <class C>
void enclose(Box<C>& around, const Box<C>& box) {
  around = {box.x1 < around.x1 ? box.x1 : around.x1, box.y1 < around.y1 ? box.y1 : around.y1,
            box.x2 > around.x2 ? box.x2 : around.x2, box.y2 > around.y2 ? box.y2 : around.y2};
}

// False only where no box within `around` can have an IoU above 0 with `box`.
template <class C>
bool reaches(const Box<C>& box, const Box<C>& around) {
  return box.x1 < around.x2 && box.x2 > around.x1 && box.y1 < around.y2 && box.y2 > around.y1;
}

template <class C>
struct Truth {
  Box<C> box;
  C area, best;
};

}  // namespace
}  // namespace maskrcnn_ops

#define SIMD_SOURCE "match_boxes/match_boxes_cpu.inl"
#include "common/simd_levels.h"

namespace maskrcnn_ops {

template <class C, class Boxes>
void match_boxes_cpu(const C* truths, const Boxes& boxes, int64_t* matches, C* ious, const MatchRule<C>& rule) {
  const int64_t blocks = ceil_div(boxes.size(), block_size);
  std::vector<Truth<C>> best(rule.truths);
  for (int64_t g = 0; g < rule.truths; ++g) {
    const Box<C> box = load_box(truths + 4 * g);
    best[g] = {box, area_of(box), C(0)};
  }
  std::mutex merging;
  parallel_for(blocks, grain, [&](int64_t begin, int64_t end) {
    std::vector<Truth<C>> mine = best;
    SIMD_CALL(find_best, mine, boxes, begin, end, matches, ious);
    const std::lock_guard<std::mutex> lock(merging);
    for (int64_t g = 0; g < rule.truths; ++g) best[g].best = std::max(best[g].best, mine[g].best);
  });
  const bool all_tie =
      rule.low_quality && std::any_of(best.begin(), best.end(), [](auto& t) { return t.best == C(0); });
  parallel_for(blocks, grain, [&](int64_t begin, int64_t end) {
    SIMD_CALL(decide_blocks, best, boxes, begin, end, all_tie, matches, ious, rule);
  });
}

#define INSTANTIATE(C)                                                                               \
  template void match_boxes_cpu(const C*, const StoredBoxes<C>&, int64_t*, C*, const MatchRule<C>&); \
  template void match_boxes_cpu(const C*, const AnchorPyramid<C>&, int64_t*, C*, const MatchRule<C>&);
INSTANTIATE(float)
INSTANTIATE(double)

}  // namespace maskrcnn_ops
