#include "nms/nms.h"

#include <algorithm>
#include <atomic>
#include <numeric>

#include "common/ranking.h"
#include "common/threads.h"
#include "nms/districts.h"
#include "nms/grid.h"

// Work partition: threads take one image after the other, or within an image one group, or within a single large group
// one district (districts.h). Boxes of a group are visited by descending score, and each is compared with the kept
// boxes near it only (grid.h), several at a time.

namespace maskrcnn_ops {

using namespace greedy;
using namespace ranking;

namespace {

constexpr int64_t compared_with_all = 256;      // so few kept boxes cost less than looking for the near ones
constexpr int64_t boxes_a_district = 4096;      // their candidates and packs take about half of a 1 MB cache
constexpr int64_t boxes_for_districts = 40000;  // they pay from here on

// Calls task(i) for i < count; threads take the next as they finish one.
template <class Task>
void run_tasks(int64_t count, int64_t threads, const Task& task) {
  if (threads == 1) {  // leaves the threads to the task
    for (int64_t i = 0; i < count; ++i) task(i);
    return;
  }
  std::atomic<int64_t> next{0};
  parallel_for(std::min(count, threads), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i; begin < end && (i = next++) < count;) task(i);
  });
}

}  // namespace
}  // namespace maskrcnn_ops

#define SIMD_SOURCE "nms/nms_cpu.inl"
#include "common/simd_levels.h"

namespace maskrcnn_ops {
namespace {

// The first `count` boxes of the order, whose groups do not meet.
template <class C, class S>
void suppress_groups(const NmsBoxes<C, S>& boxes, const uint32_t* order, int64_t count, const NmsOptions<C, S>& options,
                     uint8_t* keep) {
  if (boxes.groups == nullptr) {
    SIMD_CALL(suppress, boxes.boxes, order, count, options.rule, options.by_all, keep);
    return;
  }
  constexpr int64_t boxes_a_thread = 2000;  // fewer are not worth waking a thread
  const Groups groups(order, count, boxes.groups);
  run_tasks(groups.count(), std::min<int64_t>(num_threads(), 1 + count / boxes_a_thread), [&](int64_t g) {
    SIMD_CALL(suppress, boxes.boxes, groups.members(g), groups.size(g), options.rule, options.by_all, keep);
  });
}

// Sets keep[i], 0 before, for the boxes of one image that are kept; they come by descending score. Whether a box is
// kept hangs on boxes of higher score only, so the beginning of the order can be decided without the rest: ever longer
// beginnings are, until one holds as many kept boxes as are wanted.
template <class C, class S>
void keep_of_image(const NmsBoxes<C, S>& boxes, const uint32_t* order, int64_t count, const NmsOptions<C, S>& options,
                   uint8_t* keep) {
  constexpr int64_t visited_per_kept = 4, shortest = 256, growth = 4;
  const int64_t most = std::min(options.most, count);
  int64_t visited = std::min(count, std::max(shortest, visited_per_kept * most)), kept = 0;
  for (;; visited = std::min(count, growth * visited)) {
    if (most > 0) suppress_groups(boxes, order, visited, options, keep);
    kept = 0;
    for (int64_t p = 0; p < visited; ++p) kept += keep[order[p]];
    if (kept >= most || visited == count) break;
  }
  for (int64_t p = visited; p-- > 0 && kept > most;) kept -= std::exchange(keep[order[p]], uint8_t(0));
}

template <class C, class S>
Indices score_order(const NmsBoxes<C, S>& boxes, const ScoreFloor<S>& floor) {
  return order_by_score(boxes.scores, boxes.count, [&](int64_t i) {
    return floor.passes(boxes.scores[i]) && !has_nan(load_box(boxes.boxes + 4 * i));
  });
}

}  // namespace

template <class C, class S>
std::vector<int64_t> nms_cpu(const NmsBoxes<C, S>& boxes, const int64_t* images, const NmsOptions<C, S>& options) {
  const Indices order = score_order(boxes, options.floor);
  std::vector<uint8_t> keep(boxes.count);
  if (images == nullptr) {
    keep_of_image(boxes, order.data(), order.size(), options, keep.data());
  } else {
    const Groups by_image(order.data(), order.size(), images);
    const int64_t threads = by_image.count() < num_threads() ? 1 : num_threads();  // else threads within an image
    run_tasks(by_image.count(), threads,
              [&](int64_t n) { keep_of_image(boxes, by_image.members(n), by_image.size(n), options, keep.data()); });
  }
  std::vector<int64_t> kept;
  for (int64_t p = 0; p < order.size(); ++p)
    if (keep[order[p]]) kept.push_back(order[p]);
  return kept;
}

template <class C, class S>
void padded_nms_cpu(const NmsBoxes<C, S>& boxes, const int64_t* counts, int64_t images, const NmsOptions<C, S>& options,
                    int64_t* indices, int64_t* kept) {
  const int64_t threads = images < num_threads() ? 1 : num_threads();
  run_tasks(images, threads, [&](int64_t n) {
    const int64_t first = n * boxes.count;
    const int64_t count = counts == nullptr ? boxes.count : std::clamp<int64_t>(counts[n], 0, boxes.count);
    const NmsBoxes<C, S> image{boxes.boxes + 4 * first, boxes.scores + first,
                               boxes.groups == nullptr ? nullptr : boxes.groups + first, count};
    const Indices order = score_order(image, options.floor);
    std::vector<uint8_t> keep(count);
    keep_of_image(image, order.data(), order.size(), options, keep.data());
    int64_t* result = indices + n * options.most;
    kept[n] = 0;
    for (int64_t p = 0; p < order.size(); ++p)
      if (keep[order[p]]) result[kept[n]++] = order[p];
    std::fill(result + kept[n], result + options.most, int64_t(-1));
  });
}

#define INSTANTIATE(C, S)                                                                                         \
  template std::vector<int64_t> nms_cpu(const NmsBoxes<C, S>&, const int64_t*, const NmsOptions<C, S>&);          \
  template void padded_nms_cpu(const NmsBoxes<C, S>&, const int64_t*, int64_t, const NmsOptions<C, S>&, int64_t*, \
                               int64_t*);
INSTANTIATE(float, float)
INSTANTIATE(float, double)
INSTANTIATE(double, float)
INSTANTIATE(double, double)

}  // namespace maskrcnn_ops
