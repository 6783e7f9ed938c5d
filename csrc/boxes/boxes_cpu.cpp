#include "boxes/boxes.h"

#include <algorithm>

#include "common/threads.h"

// Work partition, forward: one task is a tile of the result, whose boxes2 are turned into columns once. Backward: one
// task is a few boxes1 of one batch and all of boxes2, so every sum has one owner and one order: no atomics, and the
// result does not depend on the number of threads.

namespace maskrcnn_ops {
namespace {

constexpr int tile_rows = 64, tile_columns = 512;  // four columns of float: 8 KB, a quarter of an L1 cache
constexpr int backward_rows = 16;
constexpr int64_t grain = 8192;  // pairs a thread: below it starting a thread costs more than it saves

}  // namespace
}  // namespace maskrcnn_ops

#define SIMD_SOURCE "boxes/boxes_cpu.inl"
#include "common/simd_levels.h"

namespace maskrcnn_ops {
namespace {

template <bool generalized, class C>
void forward(const C* boxes1, const C* boxes2, C* result, const Pairs& pairs) {
  const PairTiles tiles{pairs, tile_rows, tile_columns};
  const int64_t size = std::min<int64_t>(tile_rows, pairs.rows) * std::min<int64_t>(tile_columns, pairs.columns);
  parallel_for(tiles.count(), std::max<int64_t>(1, grain / size), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const auto [n, row, column] = tiles.tile(i);
      SIMD_CALL(overlap_tile<generalized>, boxes1 + 4 * (n * pairs.rows + row),
                boxes2 + 4 * (n * pairs.columns + column), result + (n * pairs.rows + row) * pairs.columns + column,
                std::min<int64_t>(tile_rows, pairs.rows - row), std::min<int64_t>(tile_columns, pairs.columns - column),
                pairs.columns);
    }
  });
}

template <bool generalized, class C>
void backward(const PairGradient<C>& grad, const C* boxes1, const C* boxes2, C* grad_boxes1, const Pairs& pairs) {
  const PairTiles tiles{pairs, backward_rows, std::max<int64_t>(1, pairs.columns)};
  const int64_t size = std::min<int64_t>(backward_rows, pairs.rows) * std::max<int64_t>(1, pairs.columns);
  parallel_for(tiles.count(), std::max<int64_t>(1, grain / size), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const auto [n, row, column] = tiles.tile(i);
      const PairGradient<C> part{grad.data + n * grad.batch + row * grad.row, grad.batch, grad.row, grad.column};
      SIMD_CALL(backward_tile<generalized>, part, boxes1 + 4 * (n * pairs.rows + row), boxes2 + 4 * n * pairs.columns,
                grad_boxes1 + 4 * (n * pairs.rows + row), std::min<int64_t>(backward_rows, pairs.rows - row),
                pairs.columns);
    }
  });
}

}  // namespace

template <class C>
void box_iou_cpu(const C* boxes1, const C* boxes2, C* result, const Pairs& pairs, bool generalized) {
  if (generalized) forward<true>(boxes1, boxes2, result, pairs);
  else forward<false>(boxes1, boxes2, result, pairs);
}

template <class C>
void box_iou_backward_cpu(const PairGradient<C>& grad, const C* boxes1, const C* boxes2, C* grad_boxes1,
                          const Pairs& pairs, bool generalized) {
  if (generalized) backward<true>(grad, boxes1, boxes2, grad_boxes1, pairs);
  else backward<false>(grad, boxes1, boxes2, grad_boxes1, pairs);
}

#define INSTANTIATE(C)                                                   \
  template void box_iou_cpu(const C*, const C*, C*, const Pairs&, bool); \
  template void box_iou_backward_cpu(const PairGradient<C>&, const C*, const C*, C*, const Pairs&, bool);
INSTANTIATE(float)
INSTANTIATE(double)

}  // namespace maskrcnn_ops
