#pragma once

// Run lengths, down the columns of the image, of masks as paste_masks decides them, without their bitmaps. The mapping
// from pixels to the mask is that of paste_masks.h; the two products and sums of a pixel are taken in the same order
// (stretched along x first, then blended along y), so every decision is the same to the bit.
//
// Runs alternate between zeros and ones and begin with zeros; their lengths add up to the pixels of the image.

#include <cfloat>
#include <vector>

#include "paste_masks/paste_masks.h"

namespace maskrcnn_ops {

// One column of one pasted mask. `Read` widens a mask's element.
template <class T, class C, class Read>
struct PastedColumn {
  using A = Acc<T>;
  const T* mask;
  int mask_height, mask_width;
  PasteAxis<C> y;
  PasteTap<C> x;
  bool covered;
  int held = -1;  // the ring row that `low` belongs to
  A low = A(0), high = A(0);

  HOST_DEVICE PastedColumn(const T* mask, const C* box, int column, const PasteMasks& args)
      : mask(mask), mask_height(args.mask_height), mask_width(args.mask_width), y(axis_y(box, args)) {
    const PasteAxis<C> axis = axis_x(box, args);
    const C u = mask_coordinate(axis, column);
    covered = !is_before(axis, u) && !is_beyond(axis, u, mask_width);
    if (covered) x = paste_tap(axis, u);
  }

  HOST_DEVICE A cell(int row, int column) const {
    if (row < 1 || row > mask_height || column < 1 || column > mask_width) return A(0);
    return Read()(mask[static_cast<int64_t>(row - 1) * mask_width + column - 1]);
  }

  HOST_DEVICE A stretched(int row) const {
    return static_cast<A>(x.low_weight) * cell(row, x.low) + static_cast<A>(x.high_weight) * cell(row, x.low + 1);
  }

  // Rows need not be asked for in order, but are cheaper so.
  HOST_DEVICE A at(int row) {
    if (!covered) return A(0);
    const C u = mask_coordinate(y, row);
    if (is_before(y, u) || is_beyond(y, u, mask_height)) return A(0);
    const PasteTap<C> tap = paste_tap(y, u);
    if (tap.low != held) {
      held = tap.low;
      low = stretched(held);
      high = stretched(held + 1);
    }
    return static_cast<A>(tap.low_weight) * low + static_cast<A>(tap.high_weight) * high;
  }
};

// Calls change(y) for each pixel of column x that differs from the pixel before it down the columns; before the first
// pixel of the image there are zeros.
template <class Read, class T, class C, class Change>
HOST_DEVICE void for_each_change(const T* mask, const C* box, int x, Acc<T> threshold, const PasteMasks& args,
                                 const Change& change) {
  PastedColumn<T, C, Read> column(mask, box, x, args);
  bool previous = false;
  if (x > 0) {
    PastedColumn<T, C, Read> before(mask, box, x - 1, args);
    if (!before.covered && !column.covered) return;
    previous = before.at(args.height - 1) > threshold;
  }
  // Pixels change at the top of the column and from the first covered row to the one after the last.
  PixelRange rows{args.height, 0};
  if (column.covered) rows = pixels_of(column.y, args.height, 1, args.mask_height);
  for (int y = 0; y < args.height && y <= rows.end; y = y + 1 < rows.begin ? rows.begin : y + 1) {
    const bool value = column.at(y) > threshold;
    if (value != previous) change(y);
    previous = value;
  }
}

// Where two neighbouring cells are both on one side of the threshold by this share of their size, so is every blend of
// them: its weights add up to one within a few roundings, unless cells are counted beyond what floats resolve.
template <class A, class C>
constexpr A blend_margin = 32 * (sizeof(A) < sizeof(C) || sizeof(C) == 4 ? A(FLT_EPSILON) : A(DBL_EPSILON));
constexpr int most_screened_cells = 1 << 20;

// Appends each mask's run lengths to runs[mask]. Pointers as in paste_masks.h; nothing is empty.
template <class T, class C>
void masks_to_rle_cpu(const T* masks, const C* boxes, std::vector<int64_t>* runs, Acc<T> threshold,
                      const PasteMasks& args);

// On CUDA in two calls, between which the caller reads the number of all runs, offsets[masks]. `starts` [masks, width]
// holds, from the first call to the second, where each column's changes begin among its mask's; `work` [masks].
template <class T, class C>
int count_runs_cuda(const T* masks, const C* boxes, int64_t* starts, int64_t* work, int64_t* offsets, Acc<T> threshold,
                    const PasteMasks& args, void* stream);
// `ends` is scratch of the size of `counts`, offsets[masks].
template <class T, class C>
int write_runs_cuda(const T* masks, const C* boxes, const int64_t* starts, const int64_t* offsets, int64_t* ends,
                    int64_t* counts, Acc<T> threshold, const PasteMasks& args, void* stream);

}  // namespace maskrcnn_ops
