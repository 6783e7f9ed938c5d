#pragma once

// Masks of objects as a crop reads them: 64 rows of one column at a time, bit k for row `first` + k. Bitmaps, COCO run
// lengths and COCO polygons; rows beyond the image may come out as anything, for no weight falls on them.

#include <cstdint>

#include "common/macros.h"

namespace maskrcnn_ops {

// Set from row y on, in a word that begins at row `first`.
HOST_DEVICE uint64_t ones_from(int64_t y, int64_t first) {
  if (y <= first) return ~uint64_t(0);
  return y - first < 64 ? ~uint64_t(0) << (y - first) : 0;
}

// [objects, height, width]; what is not zero belongs to the object.
struct Bitmaps {
  const uint8_t* pixels;
  int height, width;

  HOST_DEVICE uint64_t word(int64_t object, int x, int first) const {
    uint64_t bits = 0;
    const uint8_t* pixel = pixels + (object * height + first) * width + x;
    for (int k = 0; k < 64 && first + k < height; ++k, pixel += width) bits |= uint64_t(*pixel != 0) << k;
    return bits;
  }
};

// Runs of zeros and ones in turn, zeros first, down the columns: run i of an object ends before pixel ends[i]. An
// object's runs are offsets[object] ... offsets[object + 1] - 1. Ends that decrease give wrong bits, nothing worse.
struct Runs {
  const int64_t *ends, *offsets;
  int64_t total;  // of `ends`: offsets are clamped to it
  int height, width;

  HOST_DEVICE int64_t clamped(int64_t offset) const { return offset < 0 ? 0 : offset < total ? offset : total; }

  HOST_DEVICE uint64_t word(int64_t object, int x, int first) const {
    const int64_t begin = clamped(offsets[object]), end = clamped(offsets[object + 1]);
    const int64_t top = static_cast<int64_t>(x) * height;
    int64_t low = begin, high = end;  // the first run that ends after the word's first pixel
    while (low < high) {
      const int64_t middle = low + (high - low) / 2;
      if (ends[middle] > top + first) high = middle;
      else low = middle + 1;
    }
    uint64_t bits = 0;
    for (int64_t run = low, pixel = top + first; run < end && pixel < top + first + 64; pixel = ends[run], ++run)
      if ((run - begin) % 2) bits |= ones_from(pixel - top, first) ^ ones_from(ends[run] - top, first);
    return bits;
  }
};

// Note [Polygons]
// COCO's rule: corners are rounded to fifths of a pixel, an edge is walked in steps of a fifth along its longer side,
// and where the walk passes the middle of a column (between fifths 5 x + 2 and 5 x + 3) the column changes from some
// row on. A pixel belongs to the polygon if an odd number of changes lie at it or above. Here every change is computed
// from the edge directly, without the walk: it never decreases along the longer side.
struct PolygonEdge {
  int64_t x0, y0, x1, y1;  // in fifths, ordered along the longer side
  double slope;
  bool steep;

  // Corners in pixels; beyond ±1e8 they count as there. NaN counts as -1e8.
  static HOST_DEVICE int64_t fifths(double v) {
    constexpr double far = 1e8;
    if (!(v > -far)) v = -far;
    if (v > far) v = far;
    return static_cast<int64_t>(5 * v + 0.5);
  }

  HOST_DEVICE PolygonEdge(const double* a, const double* b)
      : x0(fifths(a[0])), y0(fifths(a[1])), x1(fifths(b[0])), y1(fifths(b[1])) {
    const int64_t dx = x1 > x0 ? x1 - x0 : x0 - x1, dy = y1 > y0 ? y1 - y0 : y0 - y1;
    steep = dx < dy;
    if (steep ? y0 > y1 : x0 > x1) {
      const int64_t x = x0, y = y0;
      x0 = x1;
      y0 = y1;
      x1 = x;
      y1 = y;
    }
    if (steep) slope = static_cast<double>(x1 - x0) / static_cast<double>(dy);
    else slope = dx > 0 ? static_cast<double>(y1 - y0) / static_cast<double>(dx) : 0.0;
  }

  // `along` steps from the beginning, across the longer side.
  HOST_DEVICE int64_t across(int64_t along) const {
    return static_cast<int64_t>(static_cast<double>(steep ? x0 : y0) + slope * static_cast<double>(along) + 0.5);
  }

  // The columns whose middle the edge passes, from `first_column` to before `end_column`.
  HOST_DEVICE int64_t first_column() const { return at_least((x0 < x1 ? x0 : x1) - 2); }
  HOST_DEVICE int64_t end_column() const { return at_least((x0 < x1 ? x1 : x0) - 2); }

  // The row from which column x changes, 0 to `height`.
  HOST_DEVICE int64_t change(int64_t x, int64_t height) const {
    const int64_t u = 5 * x + 2;
    int64_t v;
    if (steep) {
      int64_t low = 0, high = y1 - y0;  // the last step before the middle
      while (low + 1 < high) {
        const int64_t middle = low + (high - low) / 2;
        if (x1 > x0 ? across(middle) <= u : across(middle) > u) low = middle;
        else high = middle;
      }
      v = y0 + low;
    } else {
      const int64_t before = across(u - x0), behind = across(u + 1 - x0);
      v = before < behind ? before : behind;
    }
    // ceil((v + 0.5) / 5 - 0.5)
    const int64_t row = v - 2 <= 0 ? 0 : (v - 2 + 4) / 5;
    return row < height ? row : height;
  }

 private:
  // The first column with 5 x >= fifths, none below 0.
  static HOST_DEVICE int64_t at_least(int64_t fifths) { return fifths <= 0 ? 0 : (fifths + 4) / 5; }
};

// Polygons of objects: object o has the rings objects[o] ... objects[o + 1] - 1, ring r the corners rings[r] ...
// rings[r + 1] - 1 of points [points, 2], closed. An object is what any of its rings covers.
struct Polygons {
  const double* points;
  const int64_t *rings, *objects;
  int height, width;

  // Calls visit(edge) for each edge of a ring.
  template <class Visit>
  HOST_DEVICE void for_each_edge(int64_t ring, const Visit& visit) const {
    const int64_t begin = rings[ring], end = rings[ring + 1];
    for (int64_t p = begin; p < end; ++p)
      visit(PolygonEdge(points + 2 * p, points + 2 * (p + 1 < end ? p + 1 : begin)));
  }

  HOST_DEVICE uint64_t word(int64_t object, int x, int first) const {
    uint64_t bits = 0;
    for (int64_t ring = objects[object]; ring < objects[object + 1]; ++ring) {
      uint64_t inside = 0;
      for_each_edge(ring, [&](const PolygonEdge& edge) {
        if (x >= edge.first_column() && x < edge.end_column()) inside ^= ones_from(edge.change(x, height), first);
      });
      bits |= inside;
    }
    return bits;
  }
};

}  // namespace maskrcnn_ops
