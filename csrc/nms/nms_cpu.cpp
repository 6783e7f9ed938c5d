#include "nms/nms.h"

#include <algorithm>
#include <atomic>

#include "common/threads.h"
#include "nms/grid.h"
#include "nms/order.h"

// Work partition: one task is one group; threads take the next group as they finish one. Within a group boxes are
// visited by descending score, and each is compared with the kept boxes near it only (grid.h), several at a time.

namespace maskrcnn_ops {

using namespace greedy;

namespace {

using Indices = Array<uint32_t>;

// The usable boxes by descending score.
template <class C, class S>
Indices score_order(const C* boxes, const S* scores, int64_t count) {
  Array<Ranked<ScoreKey<S>>> items(count);
  int64_t usable = 0;
  for (int64_t i = 0; i < count; ++i) {
    items[usable] = {descending_key(scores[i]), static_cast<uint32_t>(i)};
    usable += scores[i] == scores[i] && !has_nan(load_box(boxes + 4 * i));
  }
  items.shrink(usable);
  radix_sort(items);
  Indices order(usable);
  for (int64_t p = 0; p < usable; ++p) order[p] = items[p].index;
  return order;
}

// The same boxes group by group, each in the given order, and where each group begins.
struct Groups {
  Indices order;
  std::vector<int64_t> first;  // of group g; one more at the end

  Groups(const Indices& by_score, const int64_t* groups) : order(by_score.size()) {
    Array<Ranked<uint64_t>> items(by_score.size());
    uint64_t least = UINT64_MAX;
    for (int64_t p = 0; p < items.size(); ++p) {
      // The offset makes unsigned order agree with signed order.
      items[p] = {static_cast<uint64_t>(groups[by_score[p]]) ^ uint64_t(1) << 63, by_score[p]};
      least = std::min(least, items[p].key);
    }
    for (int64_t p = 0; p < items.size(); ++p) items[p].key -= least;  // small keys sort in fewer passes
    radix_sort(items);
    for (int64_t p = 0; p < items.size(); ++p) {
      if (p == 0 || items[p].key != items[p - 1].key) first.push_back(p);
      order[p] = items[p].index;
    }
    first.push_back(items.size());
  }
};

}  // namespace
}  // namespace maskrcnn_ops

#define SIMD_SOURCE "nms/nms_cpu.inl"
#include "common/simd_levels.h"

namespace maskrcnn_ops {
namespace {

template <class C>
void suppress_groups(const C* boxes, const Groups& groups, const NmsRule<C>& rule, uint8_t* keep) {
  constexpr int64_t boxes_a_thread = 2000;  // fewer are not worth waking a thread
  const int64_t count = static_cast<int64_t>(groups.first.size()) - 1;
  const int64_t tasks = std::min<int64_t>({count, num_threads(), 1 + groups.order.size() / boxes_a_thread});
  std::atomic<int64_t> next{0};
  parallel_for(tasks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t g; begin < end && (g = next++) < count;)
      SIMD_CALL(suppress, boxes, groups.order.data() + groups.first[g], groups.first[g + 1] - groups.first[g], rule,
                keep);
  });
}

}  // namespace

template <class C, class S>
std::vector<int64_t> nms_cpu(const C* boxes, const S* scores, const int64_t* groups, int64_t count,
                             const NmsRule<C>& rule) {
  const Indices order = score_order(boxes, scores, count);
  Array<uint8_t> keep(count);
  if (groups != nullptr) suppress_groups(boxes, Groups(order, groups), rule, keep.data());
  else SIMD_CALL(suppress, boxes, order.data(), order.size(), rule, keep.data());
  std::vector<int64_t> kept;
  for (int64_t p = 0; p < order.size(); ++p)
    if (keep[order[p]]) kept.push_back(order[p]);
  return kept;
}

#define INSTANTIATE(C, S) \
  template std::vector<int64_t> nms_cpu(const C*, const S*, const int64_t*, int64_t, const NmsRule<C>&);
INSTANTIATE(float, float)
INSTANTIATE(float, double)
INSTANTIATE(double, float)
INSTANTIATE(double, double)

}  // namespace maskrcnn_ops
