// The index arithmetic that CUDA blocks use, swept over emulated grids, and the CPU kernels against plain loops.

#include "roi_align/roi_align.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "check.h"

using namespace maskrcnn_ops;

namespace {

// Contiguous maps, each half as large as the one before.
RoiAlign options(int64_t images, int channels, int height, int width, int pooled, int ratio, bool aligned,
                 int levels = 1) {
  RoiAlign args = {};
  args.images = images;
  args.channels = channels;
  args.pooled_height = args.pooled_width = pooled;
  args.sampling_ratio = ratio;
  args.aligned = aligned;
  args.level_count = levels;
  for (int l = 0; l < levels; ++l) {
    const int h = (height + (1 << l) - 1) >> l, w = (width + (1 << l) - 1) >> l;
    args.levels[l] = {h, w, 0.5 / (1 << l), {int64_t(channels) * h * w, int64_t(h) * w, w, 1}};
  }
  return args;
}

// Every cell of every level, image and channel belongs to exactly one tile of the grid.
void tiles_cover_the_maps_once() {
  const int shapes[][4] = {{1, 1, 1, 1}, {8, 8, 32, 1}, {9, 9, 33, 2}, {17, 20, 70, 4}};
  for (const auto& [channels, height, width, levels] : shapes) {
    const RoiAlign args = options(2, channels, height, width, 7, 2, false, levels);
    std::vector<std::vector<int>> owners;
    for (int l = 0; l < levels; ++l) owners.emplace_back(2 * args.levels[l].strides.image);
    for (int64_t n = 0; n < args.images; ++n)
      for (int chunk = 0; chunk < parts(channels, BackwardTile::channels); ++chunk)
        for (int t = 0; t < BackwardTile::tiles(args); ++t) {
          const BackwardTile tile(n, t, chunk, args);
          const Level& level = args.levels[tile.level];
          for (int c = tile.first_channel; c < std::min(channels, tile.first_channel + BackwardTile::channels); ++c)
            for (int y = tile.first_row; y < std::min(level.height, tile.first_row + BackwardTile::rows); ++y)
              for (int x = tile.first_column; x < std::min(level.width, tile.first_column + BackwardTile::columns); ++x)
                ++owners[tile.level][((tile.image * channels + c) * level.height + y) * level.width + x];
        }
    for (const auto& level : owners)
      for (int count : level) CHECK(count == 1);
  }
}

// The border that bisection finds is where the expression itself steps, and regions step there.
template <class C>
void levels_step_at_the_borders() {
  for (const double canonical_level : {4.0, 2.0, 3.5})
    for (const double epsilon : {0.0, 1e-6, 0.3})
      for (int level = 2; level < 6; ++level) {
        const C side = first_side_of<C>(level, canonical_level, epsilon);
        auto rule = [&](C s) {
          C value = static_cast<C>(canonical_level) + std::log2(s);
          value += static_cast<C>(epsilon);
          return std::floor(value);
        };
        CHECK(rule(side) >= level);
        CHECK(rule(std::nextafter(side, C(0))) < level);
        LevelRule one = {1, 0, 1, {side}};
        const C inside[5] = {0, 0, 0, C(1), side * side * C(1.01)}, below[5] = {0, 0, 0, C(1), side * side * C(0.99)};
        CHECK(level_of(inside, one) == 1 && level_of(below, one) == 0);
        const C inverted[5] = {0, 5, 0, 0, 5}, not_a_number[5] = {0, 0, 0, static_cast<C>(NAN), 5};
        CHECK(level_of(inverted, one) == 0 && level_of(not_a_number, one) == 0);
      }
}

// A tile that a RoI reads is never skipped; merged entries, single samples and per-cell weights agree.
void tiles_meet_every_roi_that_reads_them() {
  std::mt19937 random(0);
  std::uniform_real_distribution<float> place(-30, 150), side(-5, 120);
  for (int trial = 0; trial < 400; ++trial) {
    RoiAlign args = options(2, 4, 1 + trial % 40, 1 + trial % 71, 1 + trial % 7, trial % 4, trial % 2 == 0, 3);
    const int32_t level_number = trial % 3;
    const Level& level = args.levels[level_number];
    int before = 0;  // tiles of the levels before
    for (int l = 0; l < level_number; ++l) before += BackwardTile::tiles(args.levels[l]);
    const float x = place(random), y = place(random);
    const float roi[5] = {static_cast<float>(trial % 2), x, y, x + side(random), y + side(random)};
    const RoiAxes<float> axes = roi_axes(Rois<float>{roi, &level_number}, 0, args);
    CHECK(axes.image == trial % 2 && axes.level == level_number);
    std::vector<TapEntry<float>> ys(2 * axes.y.grid + 1), xs(2 * axes.x.grid + 1);
    for (int p = 0; p < args.pooled_height; ++p) {
      const int count = bin_taps(axes.y, p, level.height, ys.data());
      CHECK(count <= 2 * axes.y.grid);
      float sum = 0;
      for (int i = 0; i < count; ++i) {
        CHECK(ys[i].cell >= 0 && ys[i].cell < level.height && ys[i].weight > 0);
        CHECK(std::abs(cell_weight(axes.y, p, level.height, ys[i].cell) - ys[i].weight) < 1e-5f);
        sum += ys[i].weight;
      }
      CHECK(sum < 1.0001f);
      for (int q = 0; q < args.pooled_width; ++q) {
        const int across = bin_taps(axes.x, q, level.width, xs.data());
        for (int i = 0; i < count; ++i)
          for (int j = 0; j < across; ++j) {
            const int tile_row = ys[i].cell / BackwardTile::rows, tile_column = xs[j].cell / BackwardTile::columns;
            const BackwardTile tile(
                axes.image, before + tile_row * parts(level.width, BackwardTile::columns) + tile_column, 0, args);
            CHECK(tile.level == level_number && tile.touches(axes, args));
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
      args.levels[0].strides = strides(13, 17);
      const Rois<float> regions = {rois.data(), nullptr};
      roi_align_cpu<float>({{map.data()}}, regions, pooled.data(), nullptr, strides(3, 3), args);
      roi_align_backward_cpu<float>(grad.data(), nullptr, strides(3, 3), regions, {{back.data()}}, args);
      double left = 0, right = 0;
      for (size_t i = 0; i < pooled.size(); ++i) left += double(pooled[i]) * grad[i];
      for (size_t i = 0; i < map.size(); ++i) right += double(map[i]) * back[i];
      CHECK(std::abs(left - right) < 1e-3 * (1 + std::abs(left)));
      for (size_t i = 3 * channels * 9; i < pooled.size(); ++i) CHECK(pooled[i] == 0);
    }
}

// The gradients of the corners are those of every sample's place.
void corners_move_samples() {
  for (const bool aligned : {false, true})
    for (const double high : {9.3, 2.9})  // a side of 7.3 pixels, and one that may be widened to a cell
      for (int p = 0; p < 3; ++p)
        for (int i = 0; i < 2; ++i) {
          auto place = [&](double low, double high) {
            return sample_point(sample_axis(low, high, 0.5, 3, 2, aligned, 20), p, i);
          };
          const SampleAxis<double> axis = sample_axis(2.0, high, 0.5, 3, 2, aligned, 20);
          const auto gradients = corner_gradients(2.0, high, 0.5, 3, aligned, 1.0, sample_place(axis, p, i));
          const double step = 1e-6;
          CHECK(std::abs((place(2 + step, high) - place(2 - step, high)) / (2 * step) - gradients.low) < 1e-6);
          CHECK(std::abs((place(2, high + step) - place(2, high - step)) / (2 * step) - gradients.high) < 1e-6);
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
  tiles_cover_the_maps_once();
  levels_step_at_the_borders<float>();
  levels_step_at_the_borders<double>();
  corners_move_samples();
  tiles_meet_every_roi_that_reads_them();
  backward_is_the_transpose_of_forward();
  halves_round_trip();
  return finish();
}
