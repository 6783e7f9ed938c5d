#pragma once

// Where the CPU kernel keeps the boxes whose scores may still fall: in blocks of near boxes, so that a kept box needs
// to look at the few blocks it meets, and at one number, the highest score, of each of the others.

#include <algorithm>
#include <cstdint>
#include <vector>

#include "common/ranking.h"
#include "soft_nms/soft_nms.h"

namespace maskrcnn_ops {
namespace soft {

using ranking::Array;

template <class C>
struct alignas(32) Block {
  static constexpr int size = 64;
  C x1[size], y1[size], x2[size], y2[size], area[size], score[size];
  uint32_t index[size];
};

// One axis of the plane in 2^16 steps. Of the numbers beyond the finite ones, all fall into the first or last.
template <class C>
struct Steps {
  C low, scale;

  Steps(const C* boxes, const uint32_t* members, int64_t count, int axis) {
    C least = std::numeric_limits<C>::max(), largest = std::numeric_limits<C>::lowest();
    for (int64_t p = 0; p < count; ++p) {
      const C x = boxes[4 * static_cast<int64_t>(members[p]) + axis];
      if (x - x == C(0)) least = std::min(least, x), largest = std::max(largest, x);
    }
    low = C(0.5) * least;
    const C extent = C(0.5) * largest - low;
    scale = extent > C(0) ? C(65535) / extent : C(0);
  }

  uint32_t of(C x) const {
    const C step = (C(0.5) * x - low) * scale;
    return step > C(0) ? step < C(65535) ? static_cast<uint32_t>(step) : 65535 : 0;
  }
};

// Bits 0 ... 15 moved to the even places.
inline uint32_t spread(uint32_t bits) {
  bits = (bits | bits << 8) & 0x00ff00ff;
  bits = (bits | bits << 4) & 0x0f0f0f0f;
  bits = (bits | bits << 2) & 0x33333333;
  return (bits | bits << 1) & 0x55555555;
}

// The boxes of one group along a curve that passes near places one after the other (Morton order of the corners).
template <class C>
ranking::Indices along_curve(const C* boxes, const uint32_t* members, int64_t count) {
  const Steps<C> x(boxes, members, count, 0), y(boxes, members, count, 1);
  Array<ranking::Ranked<uint32_t>> items(count);
  for (int64_t p = 0; p < count; ++p) {
    const C* box = boxes + 4 * static_cast<int64_t>(members[p]);
    items[p] = {spread(x.of(box[0])) | spread(y.of(box[1])) << 1, members[p]};
  }
  ranking::radix_sort(items);
  ranking::Indices order(count);
  for (int64_t p = 0; p < count; ++p) order[p] = items[p].index;
  return order;
}

// All blocks of one group. `bounds` encloses a block's boxes; `best` and `best_index` tell its highest score and the
// first box that has it.
template <class C>
struct Blocks {
  std::vector<Block<C>> blocks;
  std::vector<C> bounds[4], best;
  std::vector<uint32_t> best_index;

  Blocks(const C* boxes, const C* scores, const ranking::Indices& order)
      : blocks((order.size() + Block<C>::size - 1) / Block<C>::size) {
    const C infinity = std::numeric_limits<C>::infinity();
    for (int j = 0; j < 4; ++j) bounds[j].assign(blocks.size(), j < 2 ? infinity : -infinity);
    best.resize(blocks.size());
    best_index.resize(blocks.size());
    for (int64_t p = 0; p < static_cast<int64_t>(blocks.size()) * Block<C>::size; ++p) {
      const int64_t b = p / Block<C>::size, k = p % Block<C>::size;
      // A place without box meets nothing.
      Box<C> box{infinity, infinity, -infinity, -infinity};
      Block<C>& block = blocks[b];
      block.score[k] = gone<C>();
      block.index[k] = UINT32_MAX;
      block.area[k] = C(0);
      if (p < order.size()) {
        box = load_box(boxes + 4 * static_cast<int64_t>(order[p]));
        block.score[k] = scores[order[p]];
        block.index[k] = order[p];
        block.area[k] = area_of(box);
        bounds[0][b] = std::min(bounds[0][b], box.x1), bounds[1][b] = std::min(bounds[1][b], box.y1);
        bounds[2][b] = std::max(bounds[2][b], box.x2), bounds[3][b] = std::max(bounds[3][b], box.y2);
      }
      block.x1[k] = box.x1, block.y1[k] = box.y1, block.x2[k] = box.x2, block.y2[k] = box.y2;
    }
  }

  int64_t count() const { return static_cast<int64_t>(blocks.size()); }
  Box<C> bounds_of(int64_t b) const { return {bounds[0][b], bounds[1][b], bounds[2][b], bounds[3][b]}; }
};

}  // namespace soft
}  // namespace maskrcnn_ops
