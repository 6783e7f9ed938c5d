#pragma once

// How the CPU kernel cuts one large group of boxes. Boxes are visited by descending score, which jumps about the plane,
// so beyond a few thousand the grid no longer stays in the cache. Districts are rectangles that do: each box belongs to
// the one in which its corner (x1, y1) lies, and districts are dealt with one after the other, or by several threads.
//
// This is exact. A box is `inside` if the corners of all boxes that it can meet lie in its own district. In a district,
// boxes are visited by descending score. One that a kept box suppresses is suppressed. Of the others, one that is not
// inside, or that a waiting box overlaps, waits; the rest are kept, since nothing undecided can suppress them. At the
// end the waiting boxes of all districts are decided among themselves: no box kept before overlaps one of them, whether
// of its own district (it was compared) or of another (it is inside there).

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "nms/grid.h"

namespace maskrcnn_ops {
namespace greedy {

template <class C>
class Districts {
 public:
  // Of the boxes order[0 ... count - 1], about `boxes_each` a district if they lie evenly; a single district if too
  // many would wait. Sizes are estimated from every sixteenth box: corners beyond belong to the districts at the
  // border.
  Districts(const C* boxes, const uint32_t* order, int64_t count, const NmsRule<C>& rule, int64_t boxes_each) {
    nearness_ = nearness_of(rule);
    if (nearness_ == C(0)) return;
    inverse_ = C(1) / nearness_;
    x_.low = y_.low = std::numeric_limits<C>::max(), x_.high = y_.high = std::numeric_limits<C>::lowest();
    auto sampled = [&](auto visit) {
      for (int64_t p = 0; p < count; p += 16) {
        const Box<C> box = load_box(boxes + 4 * static_cast<int64_t>(order[p]));
        if (takes_part(box, area_of(box), rule)) visit(box);
      }
    };
    sampled([&](const Box<C>& box) {
      x_.low = std::min(x_.low, box.x1), x_.high = std::max(x_.high, box.x1);
      y_.low = std::min(y_.low, box.y1), y_.high = std::max(y_.high, box.y1);
      measure(box);
    });
    if (!(x_.low <= x_.high)) return;
    const double wanted = static_cast<double>(count) / static_cast<double>(boxes_each);
    const double width = C(0.5) * x_.high - C(0.5) * x_.low, height = C(0.5) * y_.high - C(0.5) * y_.low;
    const double square = height > 0 ? std::sqrt(wanted * width / height) : wanted;
    const double columns = std::max(1.0, std::min(std::round(square), wanted));
    cut(x_, static_cast<int32_t>(columns));
    cut(y_, static_cast<int32_t>(std::max(1.0, std::round(wanted / columns))));
    int64_t waiting = 0, all = 0;
    sampled([&](const Box<C>& box) { waiting += !inside(box), ++all; });
    if (waiting > most_waiting * static_cast<double>(all)) x_.cells = y_.cells = 1;
  }

  int64_t count() const { return static_cast<int64_t>(x_.cells) * y_.cells; }

  uint32_t of(const Box<C>& box) const {
    return static_cast<uint32_t>(static_cast<int64_t>(y_.cell_of(box.y1)) * x_.cells + x_.cell_of(box.x1));
  }

  // All boxes are measured before one is asked whether it is inside.
  void measure(const Box<C>& box) {
    longest_x_ = std::max(longest_x_, side(span_x(box)));
    longest_y_ = std::max(longest_y_, side(span_y(box)));
  }

  bool inside(const Box<C>& box) const {
    return inside(x_, longest_x_, span_x(box)) && inside(y_, longest_y_, span_y(box));
  }

 private:
  static constexpr double most_waiting = 0.3;

  // As cells_near, with bounds that need no division: the other's side is at most `longest` and mine / nearness.
  bool inside(const CellAxis<C>& axis, C longest, Span<C> span) const {
    const C mine = side(span), rest = C(1) - nearness_;
    const C before = std::min(rest * longest, rest * inverse_ * mine), after = rest * mine;
    const C rounding = 8 * std::numeric_limits<C>::epsilon() * (std::abs(span.low) + 2 * longest);
    return axis.cell_of(span.low - before - rounding) == axis.cell_of(span.low + after + rounding);
  }

  CellAxis<C> x_{0, 0}, y_{0, 0};
  C longest_x_ = 0, longest_y_ = 0;
  C nearness_, inverse_;
};

// Where corners lie of boxes that may meet a waiting box, roughly: most boxes learn here that they meet none.
template <class C>
class Coverage {
 public:
  Coverage(const Candidate<C>* candidates, int64_t count) {
    if (count == 0) return;
    x_.low = x_.high = candidates[0].box.x1;
    y_.low = y_.high = candidates[0].box.y1;
    for (int64_t p = 0; p < count; ++p) {
      const Box<C>& box = candidates[p].box;
      x_.low = std::min(x_.low, box.x1), x_.high = std::max(x_.high, box.x1);
      y_.low = std::min(y_.low, box.y1), y_.high = std::max(y_.high, box.y1);
      longest_x_ = std::max(longest_x_, side(span_x(box))), longest_y_ = std::max(longest_y_, side(span_y(box)));
    }
    cut(x_, cells);
    cut(y_, cells);
  }

  // Of boxes that meet this one, none begins behind its end or, whatever was rounded, two longest sides before it.
  void add(const Box<C>& box) {
    const int32_t left = x_.cell_of(box.x1 - 2 * longest_x_), right = x_.cell_of(box.x2);
    const uint64_t columns = (~uint64_t(0) << left) & (~uint64_t(0) >> (cells - 1 - right));
    for (int32_t row = y_.cell_of(box.y1 - 2 * longest_y_); row <= y_.cell_of(box.y2); ++row) rows_[row] |= columns;
  }

  bool meets(const Box<C>& box) const { return rows_[y_.cell_of(box.y1)] >> x_.cell_of(box.x1) & 1; }

 private:
  static constexpr int32_t cells = 64;

  CellAxis<C> x_{0, 0}, y_{0, 0};
  C longest_x_ = 0, longest_y_ = 0;
  uint64_t rows_[cells] = {};
};

}  // namespace greedy
}  // namespace maskrcnn_ops
