#include "masks_to_boxes/masks_to_boxes.h"

#include <algorithm>
#include <vector>

#include "common/threads.h"
#include "common/work.h"

// Work partition: one task is a band of rows of one mask; a mask is one band where there are masks enough for the
// threads. The bands' boxes are merged afterwards, in whatever bands they came: the result is the same.

namespace maskrcnn_ops {
namespace {

template <class U>
constexpr int64_t chunk = 64 / sizeof(U);

}  // namespace
}  // namespace maskrcnn_ops

#define SIMD_SOURCE "masks_to_boxes/masks_to_boxes_cpu.inl"
#include "common/simd_levels.h"

namespace maskrcnn_ops {

template <class U>
void masks_to_boxes_cpu(const U* masks, U significant, float* boxes, const MaskStack& stack) {
  constexpr int64_t least_rows = 16, grain = 1 << 16;               // bytes a thread
  const int64_t wanted = ceil_div(4 * num_threads(), stack.masks);  // bands a mask
  const Bands bands{stack, std::max(least_rows, ceil_div(stack.height, wanted))};
  std::vector<PixelBox> found(bands.count());
  const int64_t bytes = std::min(bands.rows, stack.height) * stack.width * static_cast<int64_t>(sizeof(U));
  parallel_for(bands.count(), std::max<int64_t>(1, grain / bytes), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const auto [mask, first, last] = bands.band(i);
      SIMD_CALL(search_band, masks + mask * stack.height * stack.width, first, last, stack.width, significant,
                found[i]);
    }
  });
  for (int64_t m = 0; m < stack.masks; ++m) {
    PixelBox box = no_pixels();
    for (int64_t b = 0; b < bands.per_mask(); ++b) box = merge(box, found[m * bands.per_mask() + b]);
    write_box(box, boxes + 4 * m);
  }
}

#define INSTANTIATE(U) template void masks_to_boxes_cpu(const U*, U, float*, const MaskStack&);
INSTANTIATE(uint8_t)
INSTANTIATE(uint16_t)
INSTANTIATE(uint32_t)
INSTANTIATE(uint64_t)

}  // namespace maskrcnn_ops
