// Suppression within one group. Included once per SIMD level by nms_cpu.cpp.

namespace maskrcnn_ops {
namespace SIMD_LEVEL {

// `flatten` inlines the formulas of nms.h, without which the loop over kept boxes would not vectorise.
#define FLATTEN __attribute__((flatten)) inline

// Whether one of the boxes in `count` packs passes the screen. Packs are screened several at a time because finding out
// whether any lane has a hit costs as much as the screen itself.
template <int count, class C>
FLATTEN bool may_be_suppressed(const Pack<C>* packs, const Candidate<C>& candidate) {
  using Flag = std::conditional_t<sizeof(C) == 8, int64_t, int32_t>;
  const Box<C> box = candidate.box;
  const C share = candidate.share;
  Flag any = 0;
  for (int k = 0; k < Pack<C>::size; ++k)
    for (int p = 0; p < count; ++p) {
      const Box<C> other{packs[p].x1[k], packs[p].y1[k], packs[p].x2[k], packs[p].y2[k]};
      any |= may_suppress(other, packs[p].share[k], box, share) ? Flag(1) : Flag(0);
    }
  return any != 0;
}

// Whether one of the pack's boxes suppresses the candidate.
template <class C>
FLATTEN bool is_suppressed(const Pack<C>& pack, const Candidate<C>& candidate, const NmsRule<C>& rule) {
  for (int k = 0; k < Pack<C>::size; ++k) {
    const Box<C> other{pack.x1[k], pack.y1[k], pack.x2[k], pack.y2[k]};
    if (may_suppress(other, pack.share[k], candidate.box, candidate.share) &&
        suppresses(other, area_of(other), candidate.box, candidate.area, rule))
      return true;
  }
  return false;
}

template <class C>
FLATTEN bool is_suppressed(PackRange<C> packs, const Candidate<C>& candidate, const NmsRule<C>& rule) {
  constexpr int together = 4;
  const Pack<C>* pack = packs.first;
  for (; packs.last - pack >= together; pack += together)
    if (may_be_suppressed<together>(pack, candidate))
      for (int p = 0; p < together; ++p)
        if (is_suppressed(pack[p], candidate, rule)) return true;
  for (; pack < packs.last; ++pack)
    if (may_be_suppressed<1>(pack, candidate) && is_suppressed(*pack, candidate, rule)) return true;
  return false;
}

// Whether a kept box suppresses the candidate.
template <class C>
FLATTEN bool is_suppressed(const Grid<C>& grid, const Candidate<C>& candidate, const NmsRule<C>& rule) {
  for (const Level<C>& level : grid.levels()) {
    if (!grid.meets(level, candidate)) continue;
    const CellSpan columns = grid.columns_near(level, candidate), rows = grid.rows_near(level, candidate);
    for (int32_t row = rows.first; row <= rows.last; ++row)
      for (int32_t column = columns.first; column <= columns.last; ++column)
        if (is_suppressed(grid.taken(level, row, column), candidate, rule)) return true;
  }
  return false;
}

// Sets keep[i] for the boxes i = order[0], order[1], ..., which come by descending score.
template <class C>
void suppress(const C* boxes, const uint32_t* order, int64_t count, const NmsRule<C>& rule, uint8_t* keep) {
  constexpr int64_t ahead = 16;  // boxes to load while this one is measured: they lie anywhere
  Array<Candidate<C>> candidates(count);
  int64_t taking_part = 0;
  for (int64_t p = 0; p < count; ++p) {
    if (p + ahead < count) __builtin_prefetch(boxes + 4 * static_cast<int64_t>(order[p + ahead]));
    const Box<C> box = load_box(boxes + 4 * static_cast<int64_t>(order[p]));
    const C area = area_of(box);
    candidates[taking_part] = {box, area, share_of(area, rule), order[p]};
    taking_part += takes_part(box, area, rule);
    keep[order[p]] = 1;
  }
  Grid<C> grid(candidates.data(), taking_part, rule);
  for (int64_t p = 0; p < taking_part; ++p) {
    if (is_suppressed(grid, candidates[p], rule)) keep[candidates[p].index] = 0;
    else grid.add(candidates[p]);
  }
}

#undef FLATTEN

}  // namespace SIMD_LEVEL
}  // namespace maskrcnn_ops
