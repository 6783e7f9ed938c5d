// exp and log over the range of float; the place of a box in the grid; the CPU kernels against plain loops.

#include "box_coder/box_coder.h"

#include <cfloat>
#include <cmath>
#include <random>
#include <vector>

#include "check.h"

using namespace maskrcnn_ops;

namespace {

double ulps(float actual, double expected) {
  if (expected == 0) return actual == 0 ? 0 : HUGE_VAL;
  const double unit = std::max(std::ldexp(1.0, std::ilogb(expected) - 23), std::ldexp(1.0, -149));
  return std::abs(actual - expected) / unit;
}

void exp_is_within_an_ulp() {
  for (int64_t i = -1040000; i <= 887000; ++i) {
    const float x = static_cast<float>(i) * 1e-4f;
    CHECK(ulps(exp_of(x), std::exp(static_cast<double>(x))) <= 1.01);
  }
  CHECK(exp_of(0.0f) == 1.0f && exp_of(-0.0f) == 1.0f);
  CHECK(exp_of(89.0f) == HUGE_VALF && exp_of(1e30f) == HUGE_VALF && exp_of(HUGE_VALF) == HUGE_VALF);
  CHECK(exp_of(-104.0f) == 0.0f && exp_of(-1e30f) == 0.0f && exp_of(-HUGE_VALF) == 0.0f);
  CHECK(std::isnan(exp_of(NAN)));
}

void log_is_within_an_ulp() {
  for (uint32_t bits = 1; bits < 0x7f800000u; bits += 997) {
    const float x = bits_as<float>(bits);
    CHECK(ulps(log_of(x), std::log(static_cast<double>(x))) <= 1.01);
  }
  for (int i = -40000; i <= 40000; ++i) {
    const float x = bits_as<float>(0x3f800000 + i);  // near 1, where the logarithm is small
    CHECK(ulps(log_of(x), std::log(static_cast<double>(x))) <= 1.01);
  }
  CHECK(log_of(0.0f) == -HUGE_VALF && log_of(-0.0f) == -HUGE_VALF && log_of(HUGE_VALF) == HUGE_VALF);
  CHECK(std::isnan(log_of(-1.0f)) && std::isnan(log_of(-HUGE_VALF)) && std::isnan(log_of(NAN)));
}

// Places found by division (CUDA, in 32 and 64 bits) and by stepping (CPU) are those of nested loops.
void places_follow_the_grid() {
  const int64_t shapes[][3] = {{1, 1, 1}, {3, 5, 2}, {7, 1, 3}, {1, 9, 4}, {4, 6, 1}};
  for (const auto& [height, width, anchors] : shapes) {
    const GridAnchors<float> grid{nullptr, height, width, anchors, 8, 16};
    auto stepped = grid.place(int64_t(0));
    int64_t i = 0;
    for (int n = 0; n < 3; ++n)
      for (int64_t y = 0; y < height; ++y)
        for (int64_t x = 0; x < width; ++x)
          for (int64_t a = 0; a < anchors; ++a, ++i) {
            const auto wide = grid.place(i), narrow = grid.place(static_cast<uint32_t>(i));
            CHECK(wide.y == y && wide.x == x && wide.a == a);
            CHECK(narrow.y == y && narrow.x == x && narrow.a == a);
            CHECK(stepped.y == y && stepped.x == x && stepped.a == a);
            grid.advance(stepped);
          }
  }
  const GridAnchors<float> large{nullptr, 30000, 40000, 3, 4, 4};  // 3.6e9 boxes an image
  const int64_t far = ((int64_t(2) * 30000 + 29999) * 40000 + 39998) * 3 + 1;
  const auto place = large.place(far);
  CHECK(place.y == 29999 && place.x == 39998 && place.a == 1);
}

void rows_follow_the_classes() {
  for (int64_t classes : {1, 2, 5}) {
    const StoredAnchors<float> stored{nullptr, classes};
    auto stepped = stored.place(int64_t(0));
    for (int64_t i = 0; i < 20; ++i, stored.advance(stepped)) {
      CHECK(stored.place(i).row == i / classes && stored.place(static_cast<uint32_t>(i)).label == i % classes);
      CHECK(stepped.row == i / classes && stepped.label == i % classes);
    }
  }
}

template <class C>
std::vector<C> random_numbers(int64_t count, C low, C high, int seed) {
  std::mt19937 random(seed);
  std::uniform_real_distribution<C> distribution(low, high);
  std::vector<C> numbers(count);
  for (C& each : numbers) each = distribution(random);
  return numbers;
}

// Blocks, tails and threads decode what one box after the other does; the grid with its anchors in place of stored.
template <class C>
void kernels_match_plain_loops(double tolerance) {
  const BoxCoder<C> coder{{10, 8, 5, 4}, C(0.5)};
  for (int64_t count : {1, 63, 64, 65, 1000}) {
    const std::vector<C> deltas = random_numbers<C>(4 * count, -4, 4, 1);
    std::vector<C> anchors = random_numbers<C>(4 * count, 1, 30, 2), boxes(4 * count), again(4 * count);
    for (int64_t i = 0; i < count; ++i)
      for (int j = 0; j < 2; ++j) anchors[4 * i + j + 2] += anchors[4 * i + j];
    decode_boxes_cpu(deltas.data(), StoredAnchors<C>{anchors.data(), 1}, boxes.data(), count, coder);
    for (int64_t i = 0; i < count; ++i)
      for (int axis = 0; axis < 2; ++axis) {
        const double low = anchors[4 * i + axis], side = anchors[4 * i + axis + 2] - low;
        const double middle = deltas[4 * i + axis] / coder.weights[axis] * side + low + side / 2;
        const double scale = std::exp(std::min(0.5, double(deltas[4 * i + axis + 2]) / coder.weights[axis + 2]));
        CHECK(std::abs(boxes[4 * i + axis] - (middle - scale * side / 2)) < tolerance);
        CHECK(std::abs(boxes[4 * i + axis + 2] - (middle + scale * side / 2)) < tolerance);
      }
    encode_boxes_cpu(boxes.data(), anchors.data(), again.data(), count, coder);
    for (int64_t i = 0; i < 4 * count; ++i) {
      const C wanted = i % 4 < 2 ? deltas[i] : std::min(deltas[i], coder.weights[i % 4] * coder.clip);
      CHECK(std::abs(again[i] - wanted) < 300 * tolerance);
    }
  }
  const std::vector<C> cells{-8, -4, 8, 4, -4, -8, 4, 8};
  const GridAnchors<C> grid{cells.data(), 5, 7, 2, 8, 16};
  const int64_t count = 3 * 5 * 7 * 2;
  const std::vector<C> deltas = random_numbers<C>(4 * count, -4, 4, 3);
  std::vector<C> anchors, stored(4 * count), computed(4 * count);
  for (int64_t i = 0; i < count; ++i) {
    const Box<C> anchor = grid.anchor(grid.place(i));
    anchors.insert(anchors.end(), {anchor.x1, anchor.y1, anchor.x2, anchor.y2});
  }
  decode_boxes_cpu(deltas.data(), StoredAnchors<C>{anchors.data(), 1}, stored.data(), count, coder);
  decode_boxes_cpu(deltas.data(), grid, computed.data(), count, coder);
  CHECK(stored == computed);
}

}  // namespace

int main() {
  exp_is_within_an_ulp();
  log_is_within_an_ulp();
  places_follow_the_grid();
  rows_follow_the_classes();
  kernels_match_plain_loops<float>(3e-5);
  kernels_match_plain_loops<double>(1e-13);
  return finish();
}
