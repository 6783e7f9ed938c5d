// The coordinates and ranges that CPU tasks and CUDA threads share, and the CPU kernels against plain loops.

#include "paste_masks/paste_masks.h"

#include <cmath>
#include <random>
#include <tuple>
#include <vector>

#include "check.h"

using namespace maskrcnn_ops;

namespace {

// Axes of ordinary, border, tiny, huge and non-finite boxes.
template <class Visit>
void for_each_axis(const Visit& visit) {
  std::mt19937 random(0);
  std::uniform_real_distribution<float> place(-60, 120), side(-5, 150);
  for (int trial = 0; trial < 600; ++trial)
    for (const bool integer : {false, true}) {
      const int cells = 1 + trial % 31, extent = trial % 97;
      const float low = trial % 3 ? place(random) : std::round(place(random));
      visit(paste_axis(low, low + side(random), cells, integer), extent);
    }
  const float odd[] = {0, -0.0f, 1e-30f, 1e30f, -1e30f, 3e38f, -3e38f, INFINITY, -INFINITY, NAN, 40, 40.000004f};
  for (const float low : odd)
    for (const float high : odd)
      for (const bool integer : {false, true})
        for (const int cells : {1, 28}) visit(paste_axis(low, high, cells, integer), 50);
}

// A range holds exactly the pixels with a weight; taps lie in the ring and agree with the weight of each cell.
void ranges_hold_the_pixels_that_read_the_mask() {
  for_each_axis([](const PasteAxis<float>& axis, int extent) {
    const PixelRange range = pixels_of(axis, extent, 1, axis.cells);
    CHECK(0 <= range.begin && range.begin <= extent && range.end <= extent);
    float before = -INFINITY;
    for (int p = 0; p < extent; ++p) {
      const float u = mask_coordinate(axis, p);
      CHECK(u >= before);  // bisection and the rejection of whole runs rest on it; NaN fails
      before = u;
      const bool inside = p >= range.begin && p < range.end;
      CHECK(inside == (!is_before(axis, u) && !is_beyond(axis, u, axis.cells)));
      float sum = 0;
      for (int cell = 1; cell <= axis.cells; ++cell) sum += cell_weight(axis, u, cell);
      CHECK(inside || sum == 0);
      if (!inside) continue;
      const PasteTap<float> tap = paste_tap(axis, u);
      CHECK(tap.low >= 0 && tap.low <= axis.cells);
      CHECK(tap.low_weight >= 0 && tap.low_weight <= 1 && tap.high_weight >= 0 && tap.high_weight <= 1);
      CHECK(std::abs(tap.low_weight + tap.high_weight - 1) < 1e-6f);
      for (int cell = 0; cell <= axis.cells + 1; ++cell) {
        const float weight = cell == tap.low ? tap.low_weight : cell == tap.low + 1 ? tap.high_weight : 0;
        CHECK(cell_weight(axis, u, cell) == weight);
      }
    }
  });
}

// The pixels that a CUDA warp gathers for a cell are those that give it a weight.
void ranges_of_single_cells() {
  for_each_axis([](const PasteAxis<float>& axis, int extent) {
    for (int cell = 1; cell <= axis.cells; cell += 1 + axis.cells / 5) {
      const PixelRange range = pixels_of(axis, extent, cell, cell);
      for (int p = 0; p < extent; ++p) {
        const float weight = cell_weight(axis, mask_coordinate(axis, p), cell);
        CHECK(weight >= 0 && weight <= 1);
        if (weight > 0) CHECK(p >= range.begin && p < range.end);
      }
    }
  });
}

// Blocks find their place by long division, threads from there by short ones: each must name the pixel at its offset.
void places_follow_the_offset() {
  for (const auto& [height, width] : {std::pair(1, 1), {1, 7}, {5, 1}, {3, 40}, {17, 33}, {1 << 16, 1 << 15}}) {
    const PasteMasks args{1 << 20, 2, 2, height, width, false};
    auto offset_of = [&, h = int64_t(height), w = int64_t(width)](const PastePlace& place) {
      CHECK(place.x >= 0 && place.x < w && place.y >= 0 && place.y < h);
      return (place.mask * h + place.y) * w + place.x;
    };
    for (int64_t part = 0; part < 5; ++part)
      for (const int64_t far : {int64_t(0), (int64_t(1) << 33) - 100}) {
        const int64_t first = far + part * 16384;
        const PastePlace start = place_of(first, args);
        CHECK(offset_of(start) == first);
        for (unsigned steps = 0; steps < 16384; steps += 16) {
          PastePlace place = advance(start, steps, args);
          for (int k = 0; k < 16; ++k, ++place.x) {
            if (place.x == width) place = next_row(place, args);
            CHECK(offset_of(place) == first + steps + k);
          }
        }
      }
  }
}

void hand_worked() {
  // A mask of 2 cells over 4 pixels: centres at -0.25, 0.25, 0.75, 1.25.
  const PasteAxis<double> continuous = paste_axis(0.0, 4.0, 2, false);
  for (int p = 0; p < 4; ++p) CHECK(mask_coordinate(continuous, p) == -0.25 + 0.5 * p);
  CHECK(paste_tap(continuous, -0.25).low == 0 && paste_tap(continuous, -0.25).high_weight == 0.75);
  // One cell over [1, 2], enlarged three times: pixels 0 to 3 at -0.125, 0.625, 1.375, 2.125 of the ring.
  const PasteAxis<double> integer = paste_axis(1.0, 2.0, 1, true);
  for (int p = 0; p < 4; ++p) CHECK(mask_coordinate(integer, p) == -0.125 + 0.75 * p);
  CHECK(pixels_of(integer, 9, 1, 1).begin == 1 && pixels_of(integer, 9, 1, 1).end == 3);
  CHECK(whole_pixel(-1.9f) == -1 && whole_pixel(1.9f) == 1);
  CHECK(whole_pixel(NAN) == -1073741824.0f && whole_pixel(1e30f) == 1073741824.0f);
}

// The kernels against the sum over all cells; <paste(m), g> == <m, backward(g)>; decisions are compared probabilities.
void kernels_agree_with_plain_sums() {
  std::mt19937 random(1);
  std::uniform_real_distribution<float> uniform(0, 1);
  for (const bool integer : {false, true})
    for (const auto& [mask_height, mask_width, height, width] :
         {std::tuple(1, 1, 1, 1), {4, 4, 9, 33}, {7, 3, 40, 21}, {28, 28, 64, 80}}) {
      const PasteMasks args{5, mask_height, mask_width, height, width, integer};
      const float w = static_cast<float>(width), h = static_cast<float>(height);
      const std::vector<float> boxes = {0,     0,     w,   h, -5, -3, w / 2, h / 3, w / 3, h / 2,
                                        w + 9, h + 2, NAN, 0, w,  h,  1,     1,     1.5f,  1.25f};
      std::vector<float> masks(5 * mask_height * mask_width), back(masks.size());
      std::vector<float> image(5 * height * width), grad(image.size());
      std::vector<uint8_t> decided(image.size());
      for (float& v : masks) v = uniform(random);
      for (float& v : grad) v = uniform(random);
      paste_probabilities_cpu(masks.data(), boxes.data(), image.data(), args);
      paste_masks_cpu(masks.data(), boxes.data(), decided.data(), 0.5f, args);
      paste_probabilities_backward_cpu(grad.data(), boxes.data(), back.data(), args);
      double left = 0, right = 0;
      for (size_t i = 0; i < image.size(); ++i) left += double(image[i]) * grad[i];
      for (size_t i = 0; i < masks.size(); ++i) right += double(masks[i]) * back[i];
      CHECK(std::abs(left - right) < 1e-4 * (1 + left));
      for (int64_t i = 0; i < static_cast<int64_t>(image.size()); ++i) {
        const int64_t d = i / (height * width);
        const PasteAxis<float> x = axis_x(&boxes[4 * d], args), y = axis_y(&boxes[4 * d], args);
        const float u = mask_coordinate(x, static_cast<int>(i % width));
        const float v = mask_coordinate(y, static_cast<int>(i / width % height));
        double sum = 0;
        for (int row = 0; row < mask_height; ++row)
          for (int column = 0; column < mask_width; ++column)
            sum += double(cell_weight(y, v, row + 1)) * cell_weight(x, u, column + 1) *
                   masks[(d * mask_height + row) * mask_width + column];
        CHECK(std::abs(sum - image[i]) < 1e-6);
        CHECK(decided[i] == (image[i] > 0.5f));
      }
    }
}

}  // namespace

int main() {
  ranges_hold_the_pixels_that_read_the_mask();
  ranges_of_single_cells();
  places_follow_the_offset();
  hand_worked();
  kernels_agree_with_plain_sums();
  return finish();
}
