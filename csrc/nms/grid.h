#pragma once

// Where the CPU kernel keeps the boxes it has kept, so that a candidate meets only those near it. Boxes are sorted into
// levels by their longer side (powers of two), and on each level into the cells of a grid by their corner (x1, y1). A
// cell's packs lie side by side and are reserved for all its candidates beforehand: memory is linear in the boxes.
//
// What a candidate need not meet follows from the threshold t. With an IoU above t, the overlap of two boxes is along
// each axis more than t times the longer side, and the smaller area more than t times the larger. So corners are close,
// levels far apart never meet, and since kept boxes do not suppress each other, few of them crowd into one place.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "common/ranking.h"
#include "nms/nms.h"

namespace maskrcnn_ops {
namespace greedy {

using ranking::Array;

template <class C>
struct Candidate {
  Box<C> box;
  C area, share;
  uint32_t index;
};

// Whether the box can suppress another or be suppressed. Not so for thresholds of 0 or more and boxes without inside
// (their intersections are empty) or of infinite area (their IoUs are 0 or NaN), which is tested here once.
template <class C>
bool takes_part(const Box<C>& box, C area, const NmsRule<C>& rule) {
  if (rule.bound < C(0)) return true;
  return rule.bound < C(1) && side(span_x(box)) > C(0) && side(span_y(box)) > C(0) && area - area == C(0);
}

// Kept boxes of one cell, as many as one SIMD register holds of each number. A free place suppresses nothing.
template <class C>
struct alignas(32) Pack {
  static constexpr int size = 32 / sizeof(C);
  C x1[size], y1[size], x2[size], y2[size], share[size];

  void clear() {
    const C infinity = std::numeric_limits<C>::infinity();
    for (C* column : {x1, y1, share}) std::fill(column, column + size, infinity);
    for (C* column : {x2, y2}) std::fill(column, column + size, -infinity);
  }

  void put(int place, const Candidate<C>& box) {
    x1[place] = box.box.x1;
    y1[place] = box.box.y1;
    x2[place] = box.box.x2;
    y2[place] = box.box.y2;
    share[place] = box.share;
  }
};

template <class C>
struct PackRange {
  const Pack<C>*first, *last;
};

// One direction of a level's cells. cell_of never falls as the coordinate grows, whatever is rounded: halved, so that
// the distance of two finite numbers is finite.
template <class C>
struct CellAxis {
  C low, high;  // of the corners
  C scale = 0;
  int32_t cells = 1;

  int32_t cell_of(C x) const {
    const C place = (C(0.5) * x - C(0.5) * low) * scale;
    return place > C(0) ? place < static_cast<C>(cells - 1) ? static_cast<int32_t>(place) : cells - 1 : 0;
  }
};

// Cells [first, last] of one direction.
struct CellSpan {
  int32_t first, last;
};

template <class C>
void cut(CellAxis<C>& axis, int32_t cells) {
  const C scale = static_cast<C>(cells) / (C(0.5) * axis.high - C(0.5) * axis.low);
  if (cells == 1 || !(scale <= std::numeric_limits<C>::max())) return;
  axis.cells = cells;
  axis.scale = scale;
}

// Closeness is judged by rounded numbers, so by a threshold safely below the true one, or (0) not at all; and not at
// all where areas are tiny.
template <class C>
C nearness_of(const NmsRule<C>& rule) {
  return rule.bound < C(0.01) ? C(0) : C(0.999) * rule.bound;
}

// Where corners lie of the boxes, with sides up to `longest`, that a box can meet. The other box starts at most the
// part of it that need not overlap before this one starts, and this one likewise before the other. The part that must
// overlap is t times the longer of both sides.
template <class C>
CellSpan cells_near(const CellAxis<C>& axis, C longest, Span<C> span, C nearness) {
  if (axis.cells == 1) return {0, 0};
  const C mine = side(span), theirs = std::min(longest, mine / nearness);
  const C before = theirs - nearness * std::max(theirs, mine), after = mine - nearness * mine;
  const C rounding = 4 * std::numeric_limits<C>::epsilon() * (std::abs(span.low) + mine + theirs);
  return {axis.cell_of(span.low - before - rounding), axis.cell_of(span.low + after + rounding)};
}

template <class C>
struct Level {
  CellAxis<C> x, y;
  C longest_x = 0, longest_y = 0;  // sides
  C least_area, largest_area;
  int64_t count = 0;  // candidates
  int64_t kept = 0;
  int64_t first_cell = 0;  // cell (row, column) is cells[first_cell + row * x.cells + column]
};

// One cell: its first pack, and how many of its places are taken.
struct Cell {
  uint32_t first, count;
};

template <class C>
class Grid {
 public:
  // One cell for up to `capacity` boxes: all are compared.
  explicit Grid(int64_t capacity)
      : levels_(1), cells_(1), packs_((capacity + Pack<C>::size - 1) / Pack<C>::size), nearness_(0), divided_(false) {}

  // Thresholds that let distant boxes suppress each other get one cell, too.
  Grid(const Candidate<C>* candidates, int64_t count, const NmsRule<C>& rule) {
    divided_ = rule.bound >= C(0);
    std::fill(level_of_, level_of_ + exponents, int16_t(-1));
    const bool tiny = std::any_of(candidates, candidates + count, [&](auto& c) { return c.area < rule.smallest; });
    nearness_ = tiny ? C(0) : nearness_of(rule);
    for (int64_t i = 0; i < count; ++i) measure(candidates[i]);
    int64_t cells = 0;
    for (Level<C>& level : levels_) {
      level.first_cell = cells;
      if (divided_) divide(level);
      cells += static_cast<int64_t>(level.x.cells) * level.y.cells;
    }
    cells_.assign(cells, {0, 0});
    for (int64_t i = 0; i < count; ++i) ++cells_[cell_of(candidates[i])].count;
    uint32_t packs = 0;
    for (Cell& cell : cells_) {
      cell.first = packs;
      packs += (std::exchange(cell.count, 0) + Pack<C>::size - 1) / Pack<C>::size;
    }
    packs_ = Array<Pack<C>>(packs);
  }

  // A grid of the same cells with nothing in it.
  Grid emptied() const { return Grid(*this); }

  const std::vector<Level<C>>& levels() const { return levels_; }
  PackRange<C> taken(const Level<C>& level, int32_t row, int32_t column) const {
    const Cell& cell = cells_[level.first_cell + static_cast<int64_t>(row) * level.x.cells + column];
    const Pack<C>* first = packs_.data() + cell.first;
    return {first, first + (cell.count + Pack<C>::size - 1) / Pack<C>::size};
  }

  void add(const Candidate<C>& box) {
    Cell& cell = cells_[cell_of(box)];
    const uint32_t place = cell.count++;
    Pack<C>& pack = packs_[cell.first + place / Pack<C>::size];
    if (place % Pack<C>::size == 0) pack.clear();
    pack.put(place % Pack<C>::size, box);
    ++levels_[level_index(box.box)].kept;
  }

  // Whether boxes of this level can reach an IoU above the threshold with this one.
  bool meets(const Level<C>& level, const Candidate<C>& box) const {
    if (level.kept == 0 || nearness_ == C(0)) return level.kept > 0;
    return level.largest_area >= nearness_ * box.area && box.area >= nearness_ * level.least_area;
  }

  CellSpan columns_near(const Level<C>& level, const Candidate<C>& box) const {
    return cells_near(level.x, level.longest_x, span_x(box.box), nearness_);
  }

  CellSpan rows_near(const Level<C>& level, const Candidate<C>& box) const {
    return cells_near(level.y, level.longest_y, span_y(box.box), nearness_);
  }

 private:
  Grid(const Grid& other)
      : levels_(other.levels_), cells_(other.cells_), packs_(other.packs_.size()), nearness_(other.nearness_) {
    std::copy(other.level_of_, other.level_of_ + exponents, level_of_);
    divided_ = other.divided_;
    for (Level<C>& level : levels_) level.kept = 0;
    for (Cell& cell : cells_) cell.count = 0;
  }

  static constexpr int exponents = sizeof(C) == 8 ? 2048 : 256;

  int level_index(const Box<C>& box) const {
    return divided_ ? level_of_[exponent(std::max(side(span_x(box)), side(span_y(box))))] : 0;
  }

  static int exponent(C size) {
    if constexpr (sizeof(C) == 8) {
      uint64_t bits;
      std::memcpy(&bits, &size, sizeof bits);
      return static_cast<int>(bits >> 52 & 2047);
    } else {
      uint32_t bits;
      std::memcpy(&bits, &size, sizeof bits);
      return static_cast<int>(bits >> 23 & 255);
    }
  }

  void measure(const Candidate<C>& c) {
    int16_t& index = level_of_[divided_ ? exponent(std::max(side(span_x(c.box)), side(span_y(c.box)))) : 0];
    if (index < 0) {
      index = static_cast<int16_t>(levels_.size());
      Level<C> fresh;
      fresh.x.low = fresh.x.high = c.box.x1;
      fresh.y.low = fresh.y.high = c.box.y1;
      fresh.least_area = fresh.largest_area = c.area;
      levels_.push_back(fresh);
    }
    Level<C>& level = levels_[index];
    ++level.count;
    level.x.low = std::min(level.x.low, c.box.x1);
    level.x.high = std::max(level.x.high, c.box.x1);
    level.y.low = std::min(level.y.low, c.box.y1);
    level.y.high = std::max(level.y.high, c.box.y1);
    level.longest_x = std::max(level.longest_x, side(span_x(c.box)));
    level.longest_y = std::max(level.longest_y, side(span_y(c.box)));
    level.least_area = std::min(level.least_area, c.area);
    level.largest_area = std::max(level.largest_area, c.area);
  }

  // Cells about as long as corners of boxes that meet may lie apart, but no more of them than candidates.
  void divide(Level<C>& level) const {
    auto wanted = [&](const CellAxis<C>& axis, C longest) {
      const C extent = C(0.5) * axis.high - C(0.5) * axis.low;
      const C size = C(0.5) * cell_size * (C(1) - nearness_) * longest;
      return std::max(1.0, std::min(static_cast<double>(extent / size), static_cast<double>(level.count)));
    };
    const double most = std::max(1.0, cells_a_box * static_cast<double>(level.count));
    double columns = wanted(level.x, level.longest_x), rows = wanted(level.y, level.longest_y);
    if (columns * rows > most) {
      const double excess = std::sqrt(columns * rows / most);
      columns = std::max(1.0, columns / excess);
      rows = std::max(1.0, std::min(rows, most / columns));
      columns = std::min(columns, most / rows);
    }
    cut(level.x, static_cast<int32_t>(columns));
    cut(level.y, static_cast<int32_t>(rows));
  }

  int64_t cell_of(const Candidate<C>& c) const {
    const Level<C>& level = levels_[level_index(c.box)];
    return level.first_cell + static_cast<int64_t>(level.y.cell_of(c.box.y1)) * level.x.cells +
           level.x.cell_of(c.box.x1);
  }

  static constexpr C cell_size = C(1.5);
  static constexpr double cells_a_box = 0.125;

  std::vector<Level<C>> levels_;
  std::vector<Cell> cells_;
  Array<Pack<C>> packs_{0};
  int16_t level_of_[exponents];
  C nearness_;
  bool divided_;
};

}  // namespace greedy
}  // namespace maskrcnn_ops
