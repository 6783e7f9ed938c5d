// The taps of bins, the grid of the CUDA backward, and the CPU kernels against plain loops.

#include "ps_roi_pool/ps_roi_pool.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "check.h"

using namespace maskrcnn_ops;

namespace {

PsRoiPool options(int64_t images, int channels, int height, int width, int pooled_height, int pooled_width, int ratio) {
  return {images, 0, channels, height, width, pooled_height, pooled_width, ratio, 0.5};
}

MapStrides strides(int channels, int h, int w, bool last) {
  return last ? MapStrides{int64_t(channels) * h * w, 1, int64_t(channels) * w, channels}
              : MapStrides{int64_t(channels) * h * w, int64_t(h) * w, w, 1};
}

// Every cell of every image and input channel belongs to exactly one tile of the grid.
void tiles_cover_the_map_once() {
  const int shapes[][3] = {{1, 1, 1}, {8, 8, 32}, {9, 9, 33}, {17, 20, 70}};
  for (const auto& [channels, height, width] : shapes) {
    const PsRoiPool args = options(2, channels, height, width, 2, 3, 0);
    std::vector<int> owners(2 * channels * 6 * height * width);
    for (int64_t b = 0; b < PsTile::count(args); ++b) {
      const PsTile tile(b, args);
      CHECK(tile.image >= 0 && tile.image < 2 && tile.ph >= 0 && tile.ph < 2 && tile.pw >= 0 && tile.pw < 3);
      for (int c = tile.first_channel; c < std::min(channels, tile.first_channel + PsTile::channels); ++c)
        for (int y = tile.first_row; y < std::min(height, tile.first_row + PsTile::rows); ++y)
          for (int x = tile.first_column; x < std::min(width, tile.first_column + PsTile::columns); ++x)
            ++owners[((((tile.image * channels + c) * 2 + tile.ph) * 3 + tile.pw) * height + y) * width + x];
    }
    for (int count : owners) CHECK(count == 1);
  }
}

// One by one, merged, or by cell: the weights of a bin are the same, and lie in the map.
template <class Bin, class A>
void taps_agree(const Bin& bin, int extent, A tolerance) {
  std::vector<A> single(extent), merged(extent);
  for (int i = 0; i < bin.taps(); ++i) {
    const TapEntry<A> tap = bin.tap(i);
    CHECK(tap.cell >= 0 && tap.cell < extent);
    single[tap.cell] += tap.weight;
  }
  std::vector<TapEntry<A>> entries(bin.taps() + 1);
  const int count = bin.merged_taps(entries.data());
  CHECK(count <= bin.taps());
  for (int i = 0; i < count; ++i) merged[entries[i].cell] += entries[i].weight;
  for (int cell = 0; cell < extent; ++cell) {
    CHECK(std::abs(single[cell] - bin.weight_of(cell)) <= tolerance);
    CHECK(std::abs(merged[cell] - bin.weight_of(cell)) <= tolerance);
  }
  CHECK(bin.weight_of(extent) == 0 && bin.weight_of(-1) == 0);
}

// Bins of random RoIs; a tile that a bin reads is never skipped.
template <template <class> class Bins, class A>
void bins_and_tiles_agree() {
  std::mt19937 random(0);
  std::uniform_real_distribution<A> place(-40, 150), side(-5, 140);
  const A huge[] = {A(1e30), A(-1e30), A(3e9), A(0)};
  for (int trial = 0; trial < 300; ++trial) {
    const PsRoiPool args = options(2, 9, 1 + trial % 40, 1 + trial % 71, 1 + trial % 4, 1 + trial % 5, trial % 4);
    A x = place(random), y = place(random), right = x + side(random), bottom = y + side(random);
    if (trial % 3 == 0) x = std::round(x), right = std::round(right);  // halves at this scale
    if (trial % 10 == 0) x = huge[trial / 10 % 4], bottom = huge[trial / 40 % 4];
    const A values[5] = {static_cast<A>(trial % 2), x, y, right, bottom};
    const PsRoi<Bins, A> roi(values, args);
    CHECK(roi.image == trial % 2);
    for (int p = 0; p < args.pooled_height; ++p) taps_agree(roi.y[p], args.height, A(1e-5));
    for (int q = 0; q < args.pooled_width; ++q) taps_agree(roi.x[q], args.width, A(1e-5));
    for (int64_t b = 0; b < PsTile::count(args); ++b) {
      const PsTile tile(b, args);
      bool rows = false, columns = false;
      for (int i = 0; i < PsTile::rows; ++i) rows = rows || roi.y[tile.ph].weight_of(tile.first_row + i) != 0;
      for (int i = 0; i < PsTile::columns; ++i)
        columns = columns || roi.x[tile.pw].weight_of(tile.first_column + i) != 0;
      CHECK(tile.may_meet(roi) || !(rows && columns && tile.image == roi.image));
    }
  }
  const A bad[][5] = {{0, NAN, 0, 1, 1}, {0, 0, 0, INFINITY, 1}, {NAN, 0, 0, 1, 1}, {2, 0, 0, 1, 1}, {-1, 0, 0, 1, 1}};
  for (const auto& roi : bad) CHECK((PsRoi<Bins, A>(roi, options(2, 1, 4, 4, 2, 2, 0)).image == -1));
}

// Forward and backward against plain loops over cells and their weights, as on CUDA.
template <template <class> class Bins>
void kernels_match_plain_loops() {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  const int height = 13, width = 17, ph = 2, pw = 3, bins = ph * pw;
  std::vector<float> rois = {2, 0, 0, 9, 9, 0, NAN, 0, 1, 1};  // no such image; not finite
  for (int r = 0; r < 60; ++r) {
    const float x = 30 * normal(random), y = 25 * normal(random);
    rois.insert(rois.end(), {float(r % 2), x, y, x + 20 * std::abs(normal(random)), y + 15 * normal(random)});
  }
  for (const int count : {4, 62})  // few read the map, many a copy in lines
    for (const int channels : {1, 16, 21})
      for (const bool last : {false, true}) {
        PsRoiPool args = options(2, channels, height, width, ph, pw, 2);
        args.rois = count;
        const MapStrides in = strides(channels * bins, height, width, last), out = strides(channels, ph, pw, last);
        std::vector<float> map(2 * in.image), pooled(count * out.image), grad(pooled.size()), back(map.size());
        for (float& v : map) v = normal(random);
        for (float& v : grad) v = normal(random);
        ps_roi_pool_cpu<Bins>(map.data(), in, rois.data(), pooled.data(), out, args);
        ps_roi_pool_backward_cpu<Bins>(grad.data(), out, rois.data(), back.data(), in, args);
        std::vector<double> expected(map.size());
        for (int r = 0; r < count; ++r) {
          const PsRoi<Bins, float> roi(rois.data() + 5 * r, args);
          for (int c = 0; c < channels; ++c)
            for (int bin = 0; bin < bins; ++bin) {
              const int p = bin / pw, q = bin % pw;
              const int64_t at = r * out.image + c * out.channel + p * out.row + q * out.column;
              const double divisor = roi.y[p].divisor() * roi.x[q].divisor();
              double mean = 0;
              for (int cell = 0; roi.image >= 0 && cell < height * width; ++cell) {
                const double weight = roi.y[p].weight_of(cell / width) * roi.x[q].weight_of(cell % width) / divisor;
                const int64_t source = roi.image * in.image + (c * bins + bin) * in.channel + cell / width * in.row +
                                       cell % width * in.column;
                mean += weight * map[source];
                expected[source] += weight * grad[at];
              }
              CHECK(std::abs(pooled[at] - mean) < 1e-5);
            }
        }
        for (size_t i = 0; i < back.size(); ++i) CHECK(std::abs(back[i] - expected[i]) < 1e-4);
      }
}

}  // namespace

int main() {
  tiles_cover_the_map_once();
  bins_and_tiles_agree<SampledBins, float>();
  bins_and_tiles_agree<SampledBins, double>();
  bins_and_tiles_agree<WholeBins, float>();
  bins_and_tiles_agree<WholeBins, double>();
  kernels_match_plain_loops<SampledBins>();
  kernels_match_plain_loops<WholeBins>();
  return finish();
}
