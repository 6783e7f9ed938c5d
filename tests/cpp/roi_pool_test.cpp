// Bins against the cells they contain, the grid of the CUDA backward, and the CPU kernels against plain loops.

#include "roi_pool/roi_pool.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "check.h"

using namespace maskrcnn_ops;

namespace {

RoiPool options(int64_t images, int channels, int height, int width, int pooled_height, int pooled_width) {
  return {images, 0, channels, height, width, pooled_height, pooled_width, 0.5};
}

MapStrides strides(int channels, int h, int w, bool last) {
  return last ? MapStrides{int64_t(channels) * h * w, 1, int64_t(channels) * w, channels}
              : MapStrides{int64_t(channels) * h * w, int64_t(h) * w, w, 1};
}

// Every cell of every image and channel belongs to exactly one tile of the grid.
void tiles_cover_the_map_once() {
  const int shapes[][3] = {{1, 1, 1}, {8, 8, 32}, {9, 9, 33}, {17, 20, 70}};
  for (const auto& [channels, height, width] : shapes) {
    const RoiPool args = options(2, channels, height, width, 7, 7);
    std::vector<int> owners(2 * channels * height * width);
    for (int64_t b = 0; b < PoolTile::count(args); ++b) {
      const PoolTile tile(b, args);
      CHECK(tile.image >= 0 && tile.image < 2);
      for (int c = tile.first_channel; c < std::min(channels, tile.first_channel + PoolTile::channels); ++c)
        for (int y = tile.first_row; y < std::min(height, tile.first_row + PoolTile::rows); ++y)
          for (int x = tile.first_column; x < std::min(width, tile.first_column + PoolTile::columns); ++x)
            ++owners[((tile.image * channels + c) * height + y) * width + x];
    }
    for (int count : owners) CHECK(count == 1);
  }
}

// bins_of_cell is the exact transpose of bin_cells; a tile is taken exactly if a bin
// contains one of its cells.
template <class A>
void bins_and_cells_agree() {
  std::mt19937 random(0);
  std::uniform_real_distribution<A> place(-40, 150), side(-5, 140);
  const A huge[] = {A(1e30), A(-1e30), A(3e9), A(0)};
  for (int trial = 0; trial < 600; ++trial) {
    const RoiPool args = options(2, 4, 1 + trial % 40, 1 + trial % 71, 1 + trial % 9, 1 + trial % 30);
    A x = place(random), y = place(random), right = x + side(random), bottom = y + side(random);
    if (trial % 3 == 0) x = std::round(x), right = std::round(right);  // halves at this scale
    if (trial % 10 == 0) x = huge[trial / 10 % 4], bottom = huge[trial / 40 % 4];
    const A roi[5] = {static_cast<A>(trial % 2), x, y, right, bottom};
    const RoiBins<A> bins = roi_bins(roi, args);
    CHECK(bins.image == trial % 2);
    std::vector<bool> reads(args.height * args.width);
    for (int q = 0; q < args.pooled_width; ++q) {
      const CellRange cells = bin_cells(bins.x, q, args.width);
      CHECK(cells.first >= 0 && cells.last <= args.width);
      if (q > 0) CHECK(cells.first >= bin_cells(bins.x, q - 1, args.width).first);
      for (int cell = 0; cell < args.width; ++cell) {
        const CellRange found = bins_of_cell(bins.x, args.pooled_width, args.width, cell);
        CHECK((cell >= cells.first && cell < cells.last) == (q >= found.first && q < found.last));
      }
      for (int p = 0; p < args.pooled_height; ++p) {
        const CellRange rows = bin_cells(bins.y, p, args.height);
        for (int row = rows.first; row < rows.last; ++row)
          for (int cell = cells.first; cell < cells.last; ++cell) reads[row * args.width + cell] = true;
      }
    }
    for (int64_t b = 0; b < PoolTile::count(args); ++b) {
      const PoolTile tile(b, args);
      bool needed = false;
      for (int row = tile.first_row; row < std::min(args.height, tile.first_row + PoolTile::rows); ++row)
        for (int cell = tile.first_column; cell < std::min(args.width, tile.first_column + PoolTile::columns); ++cell)
          needed = needed || reads[row * args.width + cell];
      CHECK(tile.touches(bins, args) == (needed && tile.image == bins.image));
    }
  }
  const A bad[][5] = {{0, NAN, 0, 1, 1}, {0, 0, 0, INFINITY, 1}, {NAN, 0, 0, 1, 1}, {2, 0, 0, 1, 1}, {-1, 0, 0, 1, 1}};
  for (const auto& roi : bad) CHECK(roi_bins(roi, options(2, 1, 4, 4, 2, 2)).image == -1);
}

// Forward and backward against plain loops, the backward through the bins that contain each cell, as on CUDA.
void kernels_match_plain_loops() {
  std::mt19937 random(1);
  std::uniform_int_distribution<int> level(-3, 3);  // few values: many ties
  const std::vector<float> rois = {0, 1, 2, 20, 22, 1, -4, -4, 40, 9, 1, 5, 5, 6, 6, 7, 0, 0, 9, 9, 0, NAN, 0, 1, 1};
  for (const int channels : {1, 16, 21})
    for (const bool last : {false, true}) {
      RoiPool args = options(2, channels, 13, 17, 3, 4);
      args.rois = 5;  // the fourth names an image that does not exist, the fifth is not finite
      const int64_t outputs = args.rois * channels * 12, plane = 13 * 17;
      std::vector<float> map(2 * channels * plane), pooled(outputs), grad(outputs), back(map.size());
      std::vector<int32_t> argmax(outputs);
      for (float& v : map) v = static_cast<float>(level(random));
      for (float& v : grad) v = static_cast<float>(level(random));
      const MapStrides in = strides(channels, 13, 17, last), out = strides(channels, 3, 4, last);
      roi_pool_cpu(map.data(), in, rois.data(), pooled.data(), argmax.data(), out, args);
      roi_pool_backward_cpu(grad.data(), out, argmax.data(), out, rois.data(), back.data(), in, args);
      std::vector<float> expected(map.size());
      for (int64_t r = 0; r < args.rois; ++r) {
        const RoiBins<float> bins = roi_bins(rois.data() + 5 * r, args);
        for (int c = 0; c < channels; ++c)
          for (int ph = 0; ph < 3; ++ph)
            for (int pw = 0; pw < 4; ++pw) {
              const int64_t at = r * out.image + c * out.channel + ph * out.row + pw * out.column;
              float best = lowest<float>();
              int32_t where = -1;
              for (int cell = 0; bins.image >= 0 && cell < plane; ++cell) {
                const CellRange down = bins_of_cell(bins.y, 3, 13, cell / 17),
                                across = bins_of_cell(bins.x, 4, 17, cell % 17);
                if (ph < down.first || ph >= down.last || pw < across.first || pw >= across.last) continue;
                const float value =
                    map[bins.image * in.image + c * in.channel + cell / 17 * in.row + cell % 17 * in.column];
                if (value > best) best = value, where = cell;
              }
              CHECK(argmax[at] == where);
              CHECK(pooled[at] == (where < 0 ? 0 : best));
              if (where >= 0)
                expected[bins.image * in.image + c * in.channel + where / 17 * in.row + where % 17 * in.column] +=
                    grad[at];
            }
      }
      for (size_t i = 0; i < back.size(); ++i) CHECK(back[i] == expected[i]);
    }
}

}  // namespace

int main() {
  tiles_cover_the_map_once();
  bins_and_cells_agree<float>();
  bins_and_cells_agree<double>();
  kernels_match_plain_loops();
  return finish();
}
