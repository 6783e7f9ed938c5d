#pragma once

// Masks of M x M probabilities stretched bilinearly over their boxes in an image. Rows and columns are independent:
// along each axis a pixel lies at coordinate u of the mask (cell m has its centre at m) and takes the hat weights 1 -
// |u - m|.
//
// continuous: pixel p takes its centre to the mask, u = (p + 0.5 - low) / (high - low) * M - 0.5.
// integer:    a ring of zeros around the mask, the box enlarged by (M + 2) / M about its centre and truncated to whole
//             pixels first ... last, both included; u = (p - first + 0.5) * (M + 2) / (last - first + 1) - 0.5, with
//             cell 0 in the ring.
//
// Both read zeros beyond the mask's cells. Below, cells are counted with a ring of zeros around the mask in both
// conventions: ring cell 0 is zero, 1 ... M are the mask, M + 1 is zero.

#include <cmath>
#include <cstdint>

#include "common/maps.h"
#include "common/scalar.h"

namespace maskrcnn_ops {

// Sizes and options of one call.
struct PasteMasks {
  int64_t masks;
  int mask_height, mask_width, height, width;
  bool integer;
};

// One axis of one box: how pixels map to the mask. What shows nothing has its origin at infinity, before which all
// pixels lie.
template <class C>
struct PasteAxis {
  C origin;  // continuous: the box's low edge; integer: its first pixel
  C size;    // continuous: the box's side; integer: cells a pixel
  int cells;
  bool integer;
};

// A pixel reads ring cells `low` and `low + 1`.
template <class C>
struct PasteTap {
  int low;
  C low_weight, high_weight;
};

// Pixels begin ... end - 1.
struct PixelRange {
  int begin, end;
};

// Truncated towards zero and clamped to ±2^30, far outside any image; NaN becomes -2^30.
template <class C>
HOST_DEVICE C whole_pixel(C value) {
  constexpr int far = 1 << 30;
  if (!(value > C(-far))) return C(-far);
  return value < C(far) ? static_cast<C>(static_cast<int>(value)) : C(far);
}

template <class C>
HOST_DEVICE PasteAxis<C> paste_axis(C low, C high, int cells, bool integer) {
  const C side = high - low;
  const PasteAxis<C> nothing{static_cast<C>(HUGE_VALF), C(1), cells, integer};
  if (!is_finite(side)) return nothing;
  if (!integer) return side > C(0) ? PasteAxis<C>{low, side, cells, integer} : nothing;
  const C half = side * C(0.5) * static_cast<C>((cells + 2.0) / cells), centre = (high + low) * C(0.5);
  const C first = whole_pixel(centre - half), last = whole_pixel(centre + half);
  // The difference of two int32 and one, as an int64: converting it rounds once, in float as in the reference.
  const int64_t pixels = static_cast<int64_t>(last) - static_cast<int64_t>(first) + 1;
  if (pixels < 1) return nothing;
  return {first, static_cast<C>(cells + 2) / static_cast<C>(pixels), cells, integer};
}

// Never decreases from one pixel to the next.
template <class C>
HOST_DEVICE C mask_coordinate(const PasteAxis<C>& axis, int pixel) {
  const C p = static_cast<C>(pixel);
  if (axis.integer) return (p - axis.origin + C(0.5)) * axis.size - C(0.5);
  return (p + C(0.5) - axis.origin) / axis.size * static_cast<C>(axis.cells) - C(0.5);
}

// Whether a coordinate lies before, or beyond, all cells from `first` to `last` of the ring: their weights are zero.
template <class C>
HOST_DEVICE bool is_before(const PasteAxis<C>& axis, C u, int first = 1) {
  return !(u > static_cast<C>(first - 1 - !axis.integer));
}

template <class C>
HOST_DEVICE bool is_beyond(const PasteAxis<C>& axis, C u, int last) {
  return u >= static_cast<C>(last + 1 - !axis.integer);
}

// For a coordinate neither before nor beyond the mask.
template <class C>
HOST_DEVICE PasteTap<C> paste_tap(const PasteAxis<C>& axis, C u) {
  const int truncated = static_cast<int>(u), cell = truncated - (u < static_cast<C>(truncated));
  const C below = u - static_cast<C>(cell), above = static_cast<C>(cell + 1) - u;
  return {cell + !axis.integer, C(1) - below, C(1) - above};
}

// The weight of one ring cell at a coordinate.
template <class C>
HOST_DEVICE C cell_weight(const PasteAxis<C>& axis, C u, int cell) {
  const C distance = u - static_cast<C>(cell - !axis.integer);
  const C weight = C(1) - (distance < C(0) ? -distance : distance);
  return weight > C(0) ? weight : C(0);
}

// The first pixel of [0, extent) for which `reached` holds, by bisection: it holds from some pixel on.
template <class Reached>
HOST_DEVICE int first_pixel(int extent, const Reached& reached) {
  int low = 0, high = extent;
  while (low < high) {
    const int middle = low + (high - low) / 2;
    if (reached(middle)) high = middle;
    else low = middle + 1;
  }
  return low;
}

// The pixels of [0, extent) that read ring cells `first` to `last`.
template <class C>
HOST_DEVICE PixelRange pixels_of(const PasteAxis<C>& axis, int extent, int first, int last) {
  return {first_pixel(extent, [&](int p) { return !is_before(axis, mask_coordinate(axis, p), first); }),
          first_pixel(extent, [&](int p) { return is_beyond(axis, mask_coordinate(axis, p), last); })};
}

template <class C>
HOST_DEVICE PasteAxis<C> axis_x(const C* box, const PasteMasks& args) {
  return paste_axis(box[0], box[2], args.mask_width, args.integer);
}

template <class C>
HOST_DEVICE PasteAxis<C> axis_y(const C* box, const PasteMasks& args) {
  return paste_axis(box[1], box[3], args.mask_height, args.integer);
}

// A pixel of the output [masks, height, width].
struct PastePlace {
  int64_t mask;
  int y, x;
};

HOST_DEVICE PastePlace place_of(int64_t offset, const PasteMasks& args) {
  const int64_t row = offset / args.width, mask = row / args.height;
  return {mask, static_cast<int>(row - mask * args.height), static_cast<int>(offset - row * args.width)};
}

// `steps` pixels further on; sides are at most 2^30 and steps are few, so 32 bits suffice.
HOST_DEVICE PastePlace advance(const PastePlace& place, unsigned steps, const PasteMasks& args) {
  const unsigned width = args.width, height = args.height;
  const unsigned x = place.x + steps, y = place.y + x / width;
  return {place.mask + y / height, static_cast<int>(y % height), static_cast<int>(x % width)};
}

HOST_DEVICE PastePlace next_row(const PastePlace& place, const PasteMasks& args) {
  if (place.y + 1 < args.height) return {place.mask, place.y + 1, 0};
  return {place.mask + 1, 0, 0};
}

// Kernels. All pointers lie on one device and are contiguous: masks and grad_masks [masks, mask_height, mask_width],
// boxes [masks, 4], output and grad_output [masks, height, width]. Nothing is empty.
template <class T, class C>
void paste_masks_cpu(const T* masks, const C* boxes, uint8_t* output, Acc<T> threshold, const PasteMasks& args);
template <class T, class C>
void paste_probabilities_cpu(const T* masks, const C* boxes, T* output, const PasteMasks& args);
template <class T, class C>
void paste_probabilities_backward_cpu(const T* grad_output, const C* boxes, T* grad_masks, const PasteMasks& args);
template <class T, class C>
int paste_masks_cuda(const T* masks, const C* boxes, uint8_t* output, Acc<T> threshold, const PasteMasks& args,
                     void* stream);
template <class T, class C>
int paste_probabilities_cuda(const T* masks, const C* boxes, T* output, const PasteMasks& args, void* stream);
template <class T, class C>
int paste_probabilities_backward_cuda(const T* grad_output, const C* boxes, T* grad_masks, const PasteMasks& args,
                                      void* stream);

}  // namespace maskrcnn_ops
