// Blocks of boxes beside the ground truths that reach them, at one SIMD level (see common/simd.h).

#include "common/columns.inl"

namespace maskrcnn_ops {
namespace SIMD_LEVEL {

template <class C>
struct Block {
  Columns<C, block_size> box;
  alignas(32) C areas[block_size];
  Box<C> around;
  int64_t first, count;
};

// Boxes behind the last one are empty ones at the origin: no IoU of theirs is above 0.
template <class C, class Boxes>
SIMD_INLINE void load_block(const Boxes& boxes, int64_t number, Block<C>& block) {
  block.first = number * block_size;
  block.count = std::min<int64_t>(block_size, boxes.size() - block.first);
  block.around = nothing<C>();
  if (block.count < block_size) block.box = {};
  auto place = boxes.place(block.first);
  for (int64_t k = 0; k < block.count; ++k) {
    const Box<C> box = boxes.anchor(place);
    enclose(block.around, box);
    block.box.values[0][k] = box.x1;
    block.box.values[1][k] = box.y1;
    block.box.values[2][k] = box.x2;
    block.box.values[3][k] = box.y2;
    boxes.advance(place);
  }
  for (int k = 0; k < block_size; ++k)
    block.areas[k] =
        area_of(Box<C>{block.box.values[0][k], block.box.values[1][k], block.box.values[2][k], block.box.values[3][k]});
}

// IoUs of a ground truth with the boxes k, k + 1, ...: match_iou, lane by lane.
template <class C>
SIMD_INLINE Lanes<C> ious_at(const Truth<C>& truth, const Block<C>& block, int k) {
  const Lanes<C> zero{};
  auto overlap = [&](C low, C high, const C* lows, const C* highs) {
    const Lanes<C> l = load(lows), h = load(highs), all_low = zero + low, all_high = zero + high;
    const Lanes<C> length = (all_high < h ? all_high : h) - (all_low > l ? all_low : l);
    return length > zero ? length : zero;
  };
  const auto& edges = block.box.values;
  const Lanes<C> shared = overlap(truth.box.x1, truth.box.x2, edges[0] + k, edges[2] + k) *
                          overlap(truth.box.y1, truth.box.y2, edges[1] + k, edges[3] + k);
  const Lanes<C> iou = shared / (truth.area + load(block.areas + k) - shared);
  return iou > zero ? iou : zero;
}

template <class C>
SIMD_INLINE C largest_of(Lanes<C> lanes) {
  C largest = lanes[0];
  for (int k = 1; k < lane_count<C>; ++k) largest = lanes[k] > largest ? lanes[k] : largest;
  return largest;
}

// Writes each box's best ground truth and its IoU; raises `best` of the ground truths.
template <class C, class Boxes>
FLATTEN void find_best(std::vector<Truth<C>>& truths, const Boxes& boxes, int64_t begin, int64_t end, int64_t* matches,
                       C* ious) {
  constexpr int n = lane_count<C>, steps = block_size / n;
  using Indices = decltype(Lanes<C>{} > Lanes<C>{});
  Block<C> block;
  for (int64_t number = begin; number < end; ++number) {
    load_block(boxes, number, block);
    Lanes<C> best[steps] = {};
    Indices index[steps] = {};
    for (size_t g = 0; g < truths.size(); ++g) {
      Truth<C>& truth = truths[g];
      if (!reaches(truth.box, block.around)) continue;
      Lanes<C> largest{};
      for (int s = 0; s < steps; ++s) {
        const Lanes<C> iou = ious_at(truth, block, s * n);
        const Indices better = iou > best[s];
        best[s] = better ? iou : best[s];
        index[s] = (better & static_cast<int>(g)) | (~better & index[s]);
        largest = iou > largest ? iou : largest;
      }
      truth.best = std::max(truth.best, largest_of<C>(largest));
    }
    for (int64_t k = 0; k < block.count; ++k) {
      matches[block.first + k] = index[k / n][k % n];
      ious[block.first + k] = best[k / n][k % n];
    }
  }
}

// From best ground truths to decisions. A block is compared again only with ground truths whose best IoU it reaches.
template <class C, class Boxes>
FLATTEN void decide_blocks(const std::vector<Truth<C>>& truths, const Boxes& boxes, int64_t begin, int64_t end,
                           bool all_tie, int64_t* matches, const C* ious, const MatchRule<C>& rule) {
  constexpr int n = lane_count<C>, steps = block_size / n;
  using Indices = decltype(Lanes<C>{} > Lanes<C>{});
  Block<C> block;
  for (int64_t number = begin; number < end; ++number) {
    const int64_t first = number * block_size, count = std::min<int64_t>(block_size, boxes.size() - first);
    Indices ties[steps] = {};
    if (rule.low_quality && !all_tie) {
      const C largest = *std::max_element(ious + first, ious + first + count);
      bool loaded = false;
      for (const Truth<C>& truth : truths) {
        if (truth.best > largest) continue;
        if (!loaded) load_block(boxes, number, block);
        loaded = true;
        if (!reaches(truth.box, block.around)) continue;
        for (int s = 0; s < steps; ++s) ties[s] |= ious_at(truth, block, s * n) == Lanes<C>{} + truth.best;
      }
    }
    for (int64_t k = 0; k < count; ++k) {
      const BestTruth<C> best{ious[first + k], matches[first + k]};
      matches[first + k] = decide(best, all_tie || ties[k / n][k % n] != 0, rule);
    }
  }
}

}  // namespace SIMD_LEVEL
}  // namespace maskrcnn_ops
