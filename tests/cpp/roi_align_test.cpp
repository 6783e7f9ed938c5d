// The index arithmetic that CUDA blocks use, swept over emulated grids, and the CPU kernels against plain loops.

#include "roi_align/roi_align.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "check.h"

using namespace maskrcnn_ops;

namespace {

RoiAlign options(int64_t images, int channels, int height, int width, int pooled, int ratio, bool aligned) {
  return {images, 0, channels, height, width, pooled, pooled, ratio, 0.5, aligned};
}

// Every cell of every image and channel belongs to exactly one tile of the grid.
void tiles_cover_the_map_once() {
  const int shapes[][3] = {{1, 1, 1}, {8, 8, 32}, {9, 9, 33}, {17, 20, 70}};
  for (const auto& [channels, height, width] : shapes) {
    const RoiAlign args = options(2, channels, height, width, 7, 2, false);
    std::vector<int> owners(2 * channels * height * width);
    for (int64_t n = 0; n < args.images; ++n)
      for (int chunk = 0; chunk < parts(channels, BackwardTile::channels); ++chunk)
        for (int t = 0; t < BackwardTile::tiles(args); ++t) {
          const BackwardTile tile(n, t, chunk, args);
          for (int c = tile.first_channel; c < std::min(channels, tile.first_channel + BackwardTile::channels); ++c)
            for (int y = tile.first_row; y < std::min(height, tile.first_row + BackwardTile::rows); ++y)
              for (int x = tile.first_column; x < std::min(width, tile.first_column + BackwardTile::columns); ++x)
                ++owners[((tile.image * channels + c) * height + y) * width + x];
        }
    for (int count : owners) CHECK(count == 1);
  }
}

// A tile that a RoI reads is never skipped; merged entries, single samples and per-cell weights agree.
void tiles_meet_every_roi_that_reads_them() {
  std::mt19937 random(0);
  std::uniform_real_distribution<float> place(-30, 150), side(-5, 120);
  for (int trial = 0; trial < 400; ++trial) {
    RoiAlign args = options(2, 4, 1 + trial % 40, 1 + trial % 71, 1 + trial % 7, trial % 4, trial % 2 == 0);
    const float x = place(random), y = place(random);
    const float roi[5] = {static_cast<float>(trial % 2), x, y, x + side(random), y + side(random)};
    const RoiAxes<float> axes = roi_axes(roi, args);
    CHECK(axes.image == trial % 2);
    std::vector<TapEntry<float>> ys(2 * axes.y.grid + 1), xs(2 * axes.x.grid + 1);
    for (int p = 0; p < args.pooled_height; ++p) {
      const int count = bin_taps(axes.y, p, args.height, ys.data());
      CHECK(count <= 2 * axes.y.grid);
      float sum = 0;
      for (int i = 0; i < count; ++i) {
        CHECK(ys[i].cell >= 0 && ys[i].cell < args.height && ys[i].weight > 0);
        CHECK(std::abs(cell_weight(axes.y, p, args.height, ys[i].cell) - ys[i].weight) < 1e-5f);
        sum += ys[i].weight;
      }
      CHECK(sum < 1.0001f);
      for (int q = 0; q < args.pooled_width; ++q) {
        const int across = bin_taps(axes.x, q, args.width, xs.data());
        for (int i = 0; i < count; ++i)
          for (int j = 0; j < across; ++j) {
            const int tile_row = ys[i].cell / BackwardTile::rows, tile_column = xs[j].cell / BackwardTile::columns;
            const BackwardTile tile(axes.image, tile_row * parts(args.width, BackwardTile::columns) + tile_column, 0,
                                    args);
            CHECK(tile.touches(axes, args));
          }
      }
    }
  }
}

// <A x, y> == <x, Aᵀ y>, and a constant map pools to the constant inside.
void backward_is_the_transpose_of_forward() {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  for (const int channels : {1, 16, 21})
    for (const bool last : {false, true}) {
      RoiAlign args = options(2, channels, 13, 17, 3, 2, true);
      const std::vector<float> rois = {0, 1, 2, 20, 22, 1, -4, -4, 40,  9, 1, 5, 5,
                                       6, 6, 7, 0,  0,  9, 9,  0,  NAN, 0, 1, 1};
      args.rois = 5;  // the fourth names an image that does not exist, the fifth is not finite
      auto strides = [&](int h, int w) {
        return last ? MapStrides{int64_t(channels) * h * w, 1, int64_t(channels) * w, channels}
                    : MapStrides{int64_t(channels) * h * w, int64_t(h) * w, w, 1};
      };
      std::vector<float> map(2 * channels * 13 * 17), pooled(5 * channels * 9), grad(pooled.size()), back(map.size());
      for (float& v : map) v = normal(random);
      for (float& v : grad) v = normal(random);
      roi_align_cpu(map.data(), strides(13, 17), rois.data(), pooled.data(), strides(3, 3), args);
      roi_align_backward_cpu(grad.data(), strides(3, 3), rois.data(), back.data(), strides(13, 17), args);
      double left = 0, right = 0;
      for (size_t i = 0; i < pooled.size(); ++i) left += double(pooled[i]) * grad[i];
      for (size_t i = 0; i < map.size(); ++i) right += double(map[i]) * back[i];
      CHECK(std::abs(left - right) < 1e-3 * (1 + std::abs(left)));
      for (size_t i = 3 * channels * 9; i < pooled.size(); ++i) CHECK(pooled[i] == 0);
    }
}

void halves_round_trip() {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const Half half{static_cast<uint16_t>(bits)};
    const BFloat16 brain{static_cast<uint16_t>(bits)};
    const float a = widen(half), b = widen(brain);
    CHECK(a != a || narrow<Half>(a).bits == bits);
    CHECK(b != b || narrow<BFloat16>(b).bits == bits);
  }
}

}  // namespace

int main() {
  tiles_cover_the_map_once();
  tiles_meet_every_roi_that_reads_them();
  backward_is_the_transpose_of_forward();
  halves_round_trip();
  return finish();
}
