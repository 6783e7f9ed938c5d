// The tiles of the overlap kernels, swept as CUDA blocks and threads take them; the CPU kernels against plain loops.

#include "boxes/boxes.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "check.h"

using namespace maskrcnn_ops;

namespace {

constexpr int threads = 256;

// Every pair belongs to exactly one thread of one block, as the forward kernel on CUDA shares them out.
void cuda_tiles_cover_the_matrix_once() {
  const Pairs shapes[] = {{1, 1, 1}, {2, 5, 3}, {1, 700, 1}, {1, 3, 1000}, {3, 17, 256}, {1, 40, 257}, {2, 129, 31}};
  for (const Pairs& pairs : shapes) {
    const PairTiles tiles = cuda_tiles(pairs, threads, 16);
    const int64_t across = tiles.tile_columns, down = threads / across;
    CHECK((across & (across - 1)) == 0 && threads % across == 0 && tiles.tile_rows == 16 * down);
    std::vector<int> owners(pairs.batches * pairs.rows * pairs.columns);
    for (int64_t i = 0; i < tiles.count(); ++i) {
      const PairTiles::Tile tile = tiles.tile(i);
      for (int64_t t = 0; t < threads; ++t) {
        const int64_t column = tile.first_column + t % across;
        if (column >= pairs.columns) continue;
        const int64_t last = std::min(tile.first_row + tiles.tile_rows, pairs.rows);
        for (int64_t row = tile.first_row + t / across; row < last; row += down)
          ++owners[(tile.batch * pairs.rows + row) * pairs.columns + column];
      }
    }
    for (int count : owners) CHECK(count == 1);
  }
}

// Beyond 2^31 pairs the last tile still ends at the last pair.
void tiles_are_numbered_in_64_bits() {
  const PairTiles tiles = cuda_tiles({3, int64_t(1) << 20, int64_t(1) << 20}, threads, 16);
  const PairTiles::Tile last = tiles.tile(tiles.count() - 1);
  CHECK(last.batch == 2 && last.first_row == (int64_t(1) << 20) - 16 && last.first_column == (int64_t(1) << 20) - 256);
}

template <class C>
std::vector<C> random_boxes(int64_t count, int seed) {
  std::mt19937 random(seed);
  std::uniform_real_distribution<C> corner(0, 30), length(C(0.5), 20);
  std::vector<C> boxes;
  for (int64_t i = 0; i < count; ++i) {
    const C x = corner(random), y = corner(random);
    boxes.insert(boxes.end(), {x, y, x + length(random), y + length(random)});
  }
  return boxes;
}

template <class C>
double expected_overlap(const C* a, const C* b, bool generalized) {
  const double w = std::max(0.0, double(std::min(a[2], b[2])) - std::max(a[0], b[0]));
  const double h = std::max(0.0, double(std::min(a[3], b[3])) - std::max(a[1], b[1]));
  const double uni = double(a[2] - a[0]) * (a[3] - a[1]) + double(b[2] - b[0]) * (b[3] - b[1]) - w * h;
  const double whole =
      (double(std::max(a[2], b[2])) - std::min(a[0], b[0])) * (double(std::max(a[3], b[3])) - std::min(a[1], b[1]));
  return w * h / uni - (generalized ? (whole - uni) / whole : 0);
}

template <class C>
void kernels_match_plain_loops(double tolerance) {
  const Pairs shapes[] = {{1, 1, 1}, {2, 70, 3}, {1, 3, 1100}, {2, 65, 513}};
  for (const Pairs& pairs : shapes)
    for (bool generalized : {false, true}) {
      const std::vector<C> a = random_boxes<C>(pairs.batches * pairs.rows, 1);
      const std::vector<C> b = random_boxes<C>(pairs.batches * pairs.columns, 2);
      std::vector<C> result(pairs.batches * pairs.rows * pairs.columns);
      box_iou_cpu(a.data(), b.data(), result.data(), pairs, generalized);
      for (size_t i = 0; i < result.size(); ++i) {
        const int64_t line = i / pairs.columns, n = line / pairs.rows, c = i % pairs.columns;
        const C* other = &b[4 * (n * pairs.columns + c)];
        CHECK(std::abs(result[i] - expected_overlap(&a[4 * line], other, generalized)) < tolerance);
      }
      // The gradient with every weight one is the sum of the pairs' gradients.
      std::vector<C> gradient(a.size()), ones(1, C(1));
      box_iou_backward_cpu(PairGradient<C>{ones.data(), 0, 0, 0}, a.data(), b.data(), gradient.data(), pairs,
                           generalized);
      for (int64_t line = 0; line < pairs.batches * pairs.rows; ++line) {
        double sum = 0;
        for (int64_t c = 0; c < pairs.columns; ++c) {
          const Box<C> other = load_box(&b[4 * (line / pairs.rows * pairs.columns + c)]);
          sum += generalized ? overlap_backward<true>(C(1), load_box(&a[4 * line]), other).x2
                             : overlap_backward<false>(C(1), load_box(&a[4 * line]), other).x2;
        }
        CHECK(std::abs(gradient[4 * line + 2] - sum) < 100 * tolerance);
      }
    }
}

// Central differences, away from ties.
void gradients_are_slopes() {
  const std::vector<double> a = random_boxes<double>(200, 3), b = random_boxes<double>(200, 4);
  const double step = 1e-6;
  for (int i = 0; i < 200; ++i) {
    const Box<double> other = load_box(&b[4 * i]), plain = overlap_backward<false>(1.0, load_box(&a[4 * i]), other);
    const Box<double> general = overlap_backward<true>(1.0, load_box(&a[4 * i]), other);
    const double plain_slopes[] = {plain.x1, plain.y1, plain.x2, plain.y2};
    const double general_slopes[] = {general.x1, general.y1, general.x2, general.y2};
    for (int j = 0; j < 4; ++j) {
      double low[4], high[4];
      for (int k = 0; k < 4; ++k) {
        low[k] = a[4 * i + k] - (k == j) * step;
        high[k] = a[4 * i + k] + (k == j) * step;
      }
      for (bool generalized : {false, true}) {
        const double slope =
            (expected_overlap(high, &b[4 * i], generalized) - expected_overlap(low, &b[4 * i], generalized)) /
            (2 * step);
        CHECK(std::abs(slope - (generalized ? general_slopes[j] : plain_slopes[j])) < 1e-7);
      }
    }
  }
}

}  // namespace

int main() {
  cuda_tiles_cover_the_matrix_once();
  tiles_are_numbered_in_64_bits();
  kernels_match_plain_loops<float>(2e-6);
  kernels_match_plain_loops<double>(1e-13);
  gradients_are_slopes();
  return finish();
}
