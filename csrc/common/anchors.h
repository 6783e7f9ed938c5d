#pragma once

// Anchors of grids of cells, computed from their index and never stored.

#include <cstdint>

#include "common/box.h"
#include "common/macros.h"

namespace maskrcnn_ops {

// Boxes [N, H, W, A] of a grid: the anchor of (y, x, a) is cell anchor a moved by (x · stride_x, y · stride_y).
template <class C>
struct GridAnchors {
  const C* cell_anchors;
  int64_t height, width, anchors_per_cell;
  C stride_y, stride_x;

  struct Place {
    int64_t y, x, a;
  };
  HOST_DEVICE int64_t size() const { return height * width * anchors_per_cell; }
  template <class Index>
  HOST_DEVICE Place place(Index i) const {
    const Index cell = i / static_cast<Index>(anchors_per_cell), w = static_cast<Index>(width);
    return {static_cast<int64_t>(cell / w % static_cast<Index>(height)), static_cast<int64_t>(cell % w),
            static_cast<int64_t>(i % static_cast<Index>(anchors_per_cell))};
  }
  HOST_DEVICE void advance(Place& place) const {
    if (++place.a < anchors_per_cell) return;
    place.a = 0;
    if (++place.x < width) return;
    place.x = 0;
    if (++place.y == height) place.y = 0;  // the next image
  }
  HOST_DEVICE Box<C> anchor(const Place& place) const {
    const Box<C> cell = load_box(cell_anchors + 4 * place.a);
    const C x = static_cast<C>(place.x) * stride_x, y = static_cast<C>(place.y) * stride_y;
    return {cell.x1 + x, cell.y1 + y, cell.x2 + x, cell.y2 + y};
  }
};

// The grids of several levels, one after the other.
constexpr int most_grids = 8;

template <class C>
struct AnchorPyramid {
  GridAnchors<C> grids[most_grids];
  int64_t first[most_grids + 1];  // index of each grid's first anchor; then the number of anchors
  int count;

  struct Place {
    int64_t index;
    int grid;
    typename GridAnchors<C>::Place cell;
  };
  HOST_DEVICE int64_t size() const { return first[count]; }
  HOST_DEVICE Place place(int64_t i) const {
    int grid = 0;
    while (i >= first[grid + 1]) ++grid;
    return {i, grid, grids[grid].place(i - first[grid])};
  }
  HOST_DEVICE void advance(Place& place) const {
    if (++place.index < first[place.grid + 1]) return grids[place.grid].advance(place.cell);
    while (place.grid < count && place.index >= first[place.grid + 1]) ++place.grid;  // past grids without cells
    place.cell = {0, 0, 0};
  }
  HOST_DEVICE Box<C> anchor(const Place& place) const { return grids[place.grid].anchor(place.cell); }
};

}  // namespace maskrcnn_ops
