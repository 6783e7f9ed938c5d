#include "soft_nms/soft_nms.h"

#include <algorithm>
#include <atomic>
#include <numeric>

#include "common/threads.h"
#include "soft_nms/blocks.h"

// Work partition: one task is one group; threads take the next group as they finish one. Within a group, keeping a box
// is a step, and one step hangs on the one before; a step's work is vectorised.

namespace maskrcnn_ops {

using namespace soft;

}  // namespace maskrcnn_ops

#define SIMD_SOURCE "soft_nms/soft_nms_cpu.inl"
#include "common/simd_levels.h"

namespace maskrcnn_ops {

template <class C>
std::vector<C> soft_nms_cpu(const C* boxes, const C* scores, const int64_t* groups, int64_t count,
                            const SoftRule<C>& rule) {
  std::vector<C> decayed(count, gone<C>());
  std::vector<uint32_t> members;
  for (int64_t i = 0; i < count; ++i)
    if (scores[i] > rule.floor && !has_nan(load_box(boxes + 4 * i))) members.push_back(static_cast<uint32_t>(i));
  const auto taking_part = static_cast<int64_t>(members.size());
  auto soften_group = [&](const uint32_t* group, int64_t size) {
    SIMD_CALL(soften, boxes, scores, along_curve(boxes, group, size), rule, decayed.data());
  };
  if (groups == nullptr) {
    soften_group(members.data(), taking_part);
    return decayed;
  }
  constexpr int64_t boxes_a_thread = 500;  // fewer are not worth waking a thread
  const ranking::Groups sorted(members.data(), taking_part, groups);
  std::atomic<int64_t> next{0};
  const int64_t tasks = std::min<int64_t>({sorted.count(), num_threads(), 1 + taking_part / boxes_a_thread});
  parallel_for(tasks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t g; begin < end && (g = next++) < sorted.count();) soften_group(sorted.members(g), sorted.size(g));
  });
  return decayed;
}

template <class C>
std::vector<int64_t> kept_by_score(const std::vector<C>& decayed) {
  const auto order = ranking::order_by_score(decayed.data(), static_cast<int64_t>(decayed.size()),
                                             [&](int64_t i) { return decayed[i] > gone<C>(); });
  return {order.data(), order.data() + order.size()};
}

#define INSTANTIATE(C)                                                                                   \
  template std::vector<C> soft_nms_cpu(const C*, const C*, const int64_t*, int64_t, const SoftRule<C>&); \
  template std::vector<int64_t> kept_by_score(const std::vector<C>&);
INSTANTIATE(float)
INSTANTIATE(double)

}  // namespace maskrcnn_ops
