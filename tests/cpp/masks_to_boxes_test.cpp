// The bands and the lanes' shares of a row, swept as CUDA blocks take them; the CPU kernel against plain loops.

#include "masks_to_boxes/masks_to_boxes.h"

#include <algorithm>
#include <random>
#include <vector>

#include "check.h"

using namespace maskrcnn_ops;

namespace {

void bands_cover_every_row_once() {
  for (int64_t height : {1, 63, 64, 65, 200})
    for (int64_t rows : {1, 16, 64, 300}) {
      const Bands bands{{3, height, 7}, rows};
      std::vector<int> owners(3 * height);
      for (int64_t i = 0; i < bands.count(); ++i) {
        const Bands::Band band = bands.band(i);
        for (int64_t y = band.first; y < band.last; ++y) ++owners[band.mask * height + y];
      }
      for (int count : owners) CHECK(count == 1);
    }
}

// Head, packs and tail of a row at every alignment: each element is read once, packs at 16-byte boundaries.
template <class U>
void lanes_cover_every_element_once() {
  constexpr int64_t pack = 16 / sizeof(U);
  alignas(16) U memory[200] = {};
  for (int64_t offset = 0; offset < pack; ++offset)
    for (int64_t width = 0; width < 150; ++width) {
      const U* row = memory + offset;
      std::vector<int> owners(width);
      const int64_t head = std::min(head_elements(row, pack), width), packs = (width - head) / pack;
      CHECK(head < 32 && width - head - packs * pack < 32);  // one warp takes each in one step
      CHECK(packs == 0 || reinterpret_cast<uintptr_t>(row + head) % 16 == 0);
      for (int64_t lane = 0; lane < 32; ++lane) {
        if (lane < head) ++owners[lane];
        for (int64_t p = lane; p < packs; p += 32)
          for (int64_t k = 0; k < pack; ++k) ++owners[head + p * pack + k];
        if (head + packs * pack + lane < width) ++owners[head + packs * pack + lane];
      }
      for (int count : owners) CHECK(count == 1);
    }
}

template <class U>
void kernel_matches_plain_loops() {
  std::mt19937 random(0);
  const MaskStack shapes[] = {{1, 1, 1}, {3, 5, 200}, {2, 130, 67}, {9, 40, 64}, {1, 300, 129}};
  for (const MaskStack& stack : shapes)
    for (int pixels : {0, 1, 2, 5, 300}) {
      std::vector<U> masks(stack.masks * stack.height * stack.width);
      for (int i = 0; i < pixels; ++i) masks[random() % masks.size()] = static_cast<U>(U(1) << random() % 8);
      std::vector<float> boxes(4 * stack.masks, -1.0f);
      const U significant = 0x7f;  // the bit above does not count
      masks_to_boxes_cpu(masks.data(), significant, boxes.data(), stack);
      for (int64_t m = 0; m < stack.masks; ++m) {
        PixelBox box = no_pixels();
        for (int64_t y = 0; y < stack.height; ++y)
          for (int64_t x = 0; x < stack.width; ++x)
            if (masks[(m * stack.height + y) * stack.width + x] & significant) box = merge(box, {x, y, x, y});
        float expected[4];
        write_box(box, expected);
        CHECK(std::equal(expected, expected + 4, &boxes[4 * m]));
      }
    }
}

}  // namespace

int main() {
  bands_cover_every_row_once();
  lanes_cover_every_element_once<uint8_t>();
  lanes_cover_every_element_once<uint16_t>();
  lanes_cover_every_element_once<uint32_t>();
  lanes_cover_every_element_once<uint64_t>();
  kernel_matches_plain_loops<uint8_t>();
  kernel_matches_plain_loops<uint16_t>();
  kernel_matches_plain_loops<uint32_t>();
  kernel_matches_plain_loops<uint64_t>();
  return finish();
}
