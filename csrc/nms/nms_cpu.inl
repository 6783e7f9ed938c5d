// Suppression within one group. Included once per SIMD level by nms_cpu.cpp.

namespace maskrcnn_ops {
namespace SIMD_LEVEL {

// `flatten` inlines the formulas of nms.h, without which the loop over kept boxes would not vectorise.
#define FLATTEN __attribute__((flatten)) inline

// Bit k of the result is the sign of lane k.
template <class Flag, int count>
SIMD_INLINE unsigned sign_bits(const Flag (&lanes)[count]) {
#if SIMD_F16C
  if constexpr (sizeof(Flag) == 8) return _mm256_movemask_pd(_mm256_loadu_pd(reinterpret_cast<const double*>(lanes)));
  else return _mm256_movemask_ps(_mm256_loadu_ps(reinterpret_cast<const float*>(lanes)));
#else
  Flag any = 0;
  for (int k = 0; k < count; ++k) any |= lanes[k];
  unsigned bits = 0;
  for (int k = 0; any != 0 && k < count; ++k) bits |= static_cast<unsigned>(lanes[k] < 0) << k;
  return bits;
#endif
}

template <class C>
SIMD_INLINE Box<C> box_at(const Pack<C>& pack, int k) {
  return {pack.x1[k], pack.y1[k], pack.x2[k], pack.y2[k]};
}

// The boxes of the pack that pass the screen, as bits.
template <class C>
FLATTEN unsigned screened(const Pack<C>& pack, const Candidate<C>& candidate) {
  using Flag = std::conditional_t<sizeof(C) == 8, int64_t, int32_t>;
  const Box<C> box = candidate.box;
  const C share = candidate.share;
  Flag passes[Pack<C>::size];
  for (int k = 0; k < Pack<C>::size; ++k)
    passes[k] = may_suppress(box_at(pack, k), pack.share[k], box, share) ? Flag(-1) : Flag(0);
  return sign_bits(passes);
}

// Whether one of the boxes suppresses the candidate.
template <class C>
FLATTEN bool is_suppressed(PackRange<C> packs, const Candidate<C>& candidate, const NmsRule<C>& rule) {
  for (const Pack<C>* pack = packs.first; pack < packs.last; ++pack)
    for (unsigned bits = screened(*pack, candidate); bits != 0; bits &= bits - 1) {
      const Box<C> other = box_at(*pack, __builtin_ctz(bits));
      if (suppresses(other, area_of(other), candidate.box, candidate.area, rule)) return true;
    }
  return false;
}

// Whether a box of the grid suppresses the candidate.
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

// Calls visit(p, box) for the boxes order[p]. They lie anywhere, so some are loaded ahead.
template <class C, class Visit>
inline void visit_boxes(const C* boxes, const uint32_t* order, int64_t count, const Visit& visit) {
  constexpr int64_t ahead = 16;
  for (int64_t p = 0; p < count; ++p) {
    if (p + ahead < count) __builtin_prefetch(boxes + 4 * static_cast<int64_t>(order[p + ahead]));
    visit(p, load_box(boxes + 4 * static_cast<int64_t>(order[p])));
  }
}

// Sets keep[i] for the boxes i = order[0], order[1], ..., which come by descending score.
template <class C>
void suppress_together(const C* boxes, const uint32_t* order, int64_t count, const NmsRule<C>& rule, bool by_all,
                       uint8_t* keep) {
  Array<Candidate<C>> candidates(count);
  int64_t taking_part = 0;
  visit_boxes(boxes, order, count, [&](int64_t p, const Box<C>& box) {
    const C area = area_of(box);
    candidates[taking_part] = {box, area, share_of(area, rule), order[p]};
    taking_part += takes_part(box, area, rule);
    keep[order[p]] = 1;
  });
  int64_t p = 0;
  // Compares the boxes from p on with those in the grid, until it holds so many.
  const auto fill = [&](Grid<C>& grid, int64_t most) {
    for (int64_t held = 0; p < taking_part && held < most; ++p) {
      const bool suppressed = is_suppressed(grid, candidates[p], rule);
      if (suppressed) keep[candidates[p].index] = 0;
      if (suppressed && !by_all) continue;
      grid.add(candidates[p]);
      ++held;
    }
  };
  Grid<C> few(std::min(taking_part, compared_with_all));
  fill(few, compared_with_all);
  if (p == taking_part) return;
  Grid<C> grid(candidates.data(), taking_part, rule);
  for (int64_t q = 0; q < p; ++q)
    if (keep[candidates[q].index] || by_all) grid.add(candidates[q]);
  fill(grid, taking_part);
}

// The same within one district, whose boxes all take part; sets waits[p] of those that are not decided.
template <class C>
void suppress_district(const C* boxes, const uint32_t* order, int64_t count, const Districts<C>& districts,
                       const NmsRule<C>& rule, uint8_t* keep, uint8_t* waits) {
  Array<Candidate<C>> candidates(count);
  visit_boxes(boxes, order, count, [&](int64_t p, const Box<C>& box) {
    const C area = area_of(box);
    candidates[p] = {box, area, share_of(area, rule), order[p]};
    waits[p] = !districts.inside(box);
  });
  Coverage<C> covered(candidates.data(), count);
  Grid<C> kept(candidates.data(), count, rule), waiting = kept.emptied();
  for (int64_t p = 0; p < count; ++p) {
    const Candidate<C>& candidate = candidates[p];
    keep[candidate.index] = !is_suppressed(kept, candidate, rule);
    if (!keep[candidate.index]) waits[p] = 0;
    else if (waits[p] || (covered.meets(candidate.box) && is_suppressed(waiting, candidate, rule))) {
      waits[p] = 1;
      waiting.add(candidate);
      covered.add(candidate.box);
    } else {
      kept.add(candidate);
    }
  }
}

// The same for many boxes, by districts. False, and nothing is done, where that does not pay.
template <class C>
bool suppress_by_districts(const C* boxes, const uint32_t* order, int64_t count, const NmsRule<C>& rule,
                           uint8_t* keep) {
  Districts<C> districts(boxes, order, count, rule, boxes_a_district);
  if (districts.count() == 1) return false;
  constexpr uint32_t nowhere = UINT32_MAX;  // boxes that do not take part
  std::vector<int64_t> first(districts.count() + 1);
  Array<uint32_t> district(count);
  bool tiny = false;
  visit_boxes(boxes, order, count, [&](int64_t p, const Box<C>& box) {
    const C area = area_of(box);
    district[p] = nowhere;
    keep[order[p]] = 1;
    if (!takes_part(box, area, rule)) return;
    tiny |= area < rule.smallest;
    districts.measure(box);
    ++first[1 + (district[p] = districts.of(box))];
  });
  if (tiny) return false;
  std::partial_sum(first.begin(), first.end(), first.begin());
  Array<uint32_t> members(first.back()), rank(first.back());  // district by district, each by descending score
  std::vector<int64_t> next(first.begin(), first.end() - 1);
  for (int64_t p = 0; p < count; ++p) {
    if (district[p] == nowhere) continue;
    const int64_t place = next[district[p]]++;
    members[place] = order[p];
    rank[place] = static_cast<uint32_t>(p);
  }
  std::vector<uint8_t> waits(first.back()), waits_by_rank(count);
  run_tasks(districts.count(), num_threads(), [&](int64_t d) {
    const int64_t begin = first[d], end = first[d + 1];
    suppress_district(boxes, members.data() + begin, end - begin, districts, rule, keep, waits.data() + begin);
    for (int64_t p = begin; p < end; ++p) waits_by_rank[rank[p]] = waits[p];
  });
  int64_t waiting = 0;
  for (int64_t p = 0; p < count; ++p)
    if (waits_by_rank[p]) members[waiting++] = order[p];
  suppress_together(boxes, members.data(), waiting, rule, false, keep);
  return true;
}

template <class C>
void suppress(const C* boxes, const uint32_t* order, int64_t count, const NmsRule<C>& rule, bool by_all,
              uint8_t* keep) {
  if (!by_all && count >= boxes_for_districts && suppress_by_districts(boxes, order, count, rule, keep)) return;
  suppress_together(boxes, order, count, rule, by_all, keep);
}

#undef FLATTEN

}  // namespace SIMD_LEVEL
}  // namespace maskrcnn_ops
