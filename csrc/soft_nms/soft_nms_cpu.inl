// Soft-NMS within one group. Included once per SIMD level by soft_nms_cpu.cpp.

namespace maskrcnn_ops {
namespace SIMD_LEVEL {

// `flatten` inlines the formulas of soft_nms.h, without which the loops over boxes would not vectorise.
#define FLATTEN __attribute__((flatten)) inline

template <class C>
FLATTEN C largest(const C* values, int64_t count) {
  C most = gone<C>();
  if (count % Block<C>::size == 0)
    for (int64_t first = 0; first < count; first += 8) {
      for (int k = 0; k < 8; ++k) most = values[first + k] > most ? values[first + k] : most;
    }
  else
    for (int64_t k = 0; k < count; ++k) most = values[k] > most ? values[k] : most;
  return most;
}

template <class C>
FLATTEN void find_best(Blocks<C>& all, int64_t b) {
  const Block<C>& block = all.blocks[b];
  const C most = largest(block.score, Block<C>::size);
  uint32_t index = UINT32_MAX;
  for (int k = 0; k < Block<C>::size; ++k) {
    const uint32_t here = block.score[k] == most ? block.index[k] : UINT32_MAX;
    index = here < index ? here : index;
  }
  all.best[b] = most;
  all.best_index[b] = index;
}

template <bool gaussian, class C>
FLATTEN void decay(Block<C>& block, const Box<C>& box, C area, const SoftRule<C>& rule) {
  for (int k = 0; k < Block<C>::size; ++k) {
    const Box<C> other{block.x1[k], block.y1[k], block.x2[k], block.y2[k]};
    block.score[k] = decayed_score<gaussian>(box, area, other, block.area[k], block.score[k], rule);
  }
}

// Sets meets[b] of the blocks whose bounds the box meets.
template <class C>
FLATTEN void find_blocks(const Blocks<C>& all, const Box<C>& box, uint8_t* meets) {
  const C *x1 = all.bounds[0].data(), *y1 = all.bounds[1].data(), *x2 = all.bounds[2].data(),
          *y2 = all.bounds[3].data();
  for (int64_t b = 0; b < all.count(); ++b) {
    const Box<C> bounds{x1[b], y1[b], x2[b], y2[b]};
    meets[b] =
        overlap_length(span_x(bounds), span_x(box)) > C(0) ? overlap_length(span_y(bounds), span_y(box)) > C(0) : 0;
  }
}

// Sets decayed[i] of the boxes i that are kept. `order` holds the group's boxes that take part.
template <class C>
void soften(const C* boxes, const C* scores, const ranking::Indices& order, const SoftRule<C>& rule, C* decayed) {
  Blocks<C> all(boxes, scores, order);
  for (int64_t b = 0; b < all.count(); ++b) find_best(all, b);
  std::vector<uint8_t> meets(all.count());
  for (;;) {
    Pick<C> next{gone<C>(), INT64_MAX};
    int64_t home = 0;
    for (int64_t b = 0; b < all.count(); ++b)
      if (next.behind(all.best[b], all.best_index[b])) next = {all.best[b], all.best_index[b]}, home = b;
    if (next.score == gone<C>()) return;
    decayed[next.place] = next.score;
    Block<C>& block = all.blocks[home];
    for (int k = 0; k < Block<C>::size; ++k)
      if (block.index[k] == next.place) block.score[k] = gone<C>();
    const Box<C> box = load_box(boxes + 4 * next.place);
    find_blocks(all, box, meets.data());
    meets[home] = 1;
    for (int64_t b = 0; b < all.count(); ++b) {
      if (!meets[b]) continue;
      if (rule.gaussian) decay<true>(all.blocks[b], box, area_of(box), rule);
      else decay<false>(all.blocks[b], box, area_of(box), rule);
      find_best(all, b);
    }
  }
}

#undef FLATTEN

}  // namespace SIMD_LEVEL
}  // namespace maskrcnn_ops
