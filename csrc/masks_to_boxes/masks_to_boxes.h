#pragma once

// The box of each mask: first and last column and row with a pixel that is not zero.

#include <cstdint>

#include "common/macros.h"

namespace maskrcnn_ops {

// masks [masks, height, width], contiguous.
struct MaskStack {
  int64_t masks, height, width;
};

// First and last pixel, both inside; without pixels, first > last.
struct PixelBox {
  int64_t x1, y1, x2, y2;
};

HOST_DEVICE PixelBox no_pixels() { return {INT64_MAX, INT64_MAX, -1, -1}; }

HOST_DEVICE PixelBox merge(const PixelBox& a, const PixelBox& b) {
  return {a.x1 < b.x1 ? a.x1 : b.x1, a.y1 < b.y1 ? a.y1 : b.y1, a.x2 > b.x2 ? a.x2 : b.x2, a.y2 > b.y2 ? a.y2 : b.y2};
}

// An empty mask gives zeros.
HOST_DEVICE void write_box(const PixelBox& box, float* out) {
  const bool empty = box.x2 < 0;
  out[0] = empty ? 0.0f : static_cast<float>(box.x1);
  out[1] = empty ? 0.0f : static_cast<float>(box.y1);
  out[2] = empty ? 0.0f : static_cast<float>(box.x2);
  out[3] = empty ? 0.0f : static_cast<float>(box.y2);
}

// Masks are cut into bands of rows, numbered with the band fastest, so that a few large masks occupy many threads.
struct Bands {
  MaskStack stack;
  int64_t rows;  // of a band

  struct Band {
    int64_t mask, first, last;  // rows first ... last - 1
  };
  HOST_DEVICE int64_t per_mask() const { return (stack.height + rows - 1) / rows; }
  HOST_DEVICE int64_t count() const { return stack.masks * per_mask(); }
  HOST_DEVICE Band band(int64_t i) const {
    const int64_t first = i % per_mask() * rows, end = first + rows;
    return {i / per_mask(), first, end < stack.height ? end : stack.height};
  }
};

constexpr int64_t cuda_band_rows = 64;

// Elements of a row before its first 16-byte boundary; `pack` elements fill 16 bytes.
template <class U>
HOST_DEVICE int64_t head_elements(const U* row, int64_t pack) {
  const int64_t past = static_cast<int64_t>(reinterpret_cast<uintptr_t>(row) % 16 / sizeof(U));
  return past == 0 ? 0 : pack - past;
}

// Kernels. Elements are seen as unsigned numbers U of their size; one is zero when none of its `significant` bits is
// set (all bits, but for the sign of a floating-point number).
template <class U>
void masks_to_boxes_cpu(const U* masks, U significant, float* boxes, const MaskStack& stack);
// `bands`: scratch for one box a band of cuda_band_rows.
template <class U>
int masks_to_boxes_cuda(const U* masks, U significant, float* boxes, PixelBox* bands, const MaskStack& stack,
                        void* stream);

}  // namespace maskrcnn_ops
