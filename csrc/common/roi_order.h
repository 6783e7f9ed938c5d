#pragma once

// Which RoIs a CPU task takes, and in which order.

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <tuple>
#include <vector>

namespace maskrcnn_ops {

// The rectangle of map cells that a RoI reads: rows top ... bottom - 1, columns left ... right - 1 of one image. A RoI
// that reads nothing is empty and counts to image 0.
struct RoiCells {
  int64_t image = 0;
  int32_t top = 0, bottom = 0, left = 0, right = 0;

  bool empty() const { return bottom <= top || right <= left; }
  int64_t count() const { return empty() ? 0 : int64_t(bottom - top) * (right - left); }
};

// RoI indices grouped by image, in each image in spatial order, so that the cells of neighbours are still in cache.
struct RoiOrder {
  std::vector<int64_t> order;
  std::vector<int64_t> image_first;  // order[image_first[n] ... image_first[n + 1] - 1] belong to image n

  RoiOrder(const std::vector<RoiCells>& rois, int64_t images) : order(rois.size()), image_first(images + 1, 0) {
    for (const RoiCells& each : rois) ++image_first[each.image + 1];
    std::partial_sum(image_first.begin(), image_first.end(), image_first.begin());
    constexpr int32_t band = 32;  // rows of the map that stay in cache together
    auto key = [&](int64_t r) {
      const RoiCells& cells = rois[r];
      return cells.empty() ? std::make_tuple(cells.image, int32_t(-1), int32_t(-1))
                           : std::make_tuple(cells.image, cells.top / band, cells.left);
    };
    std::iota(order.begin(), order.end(), int64_t(0));
    std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return key(a) < key(b); });
  }
};

// What the RoIs order[begin ... end - 1] of one image read together: a band of rows, and patches of cells.
struct RoiExtent {
  int64_t first_row = 0, rows = 0;
  int64_t patch_cells = 0, largest_patch = 0;

  RoiExtent(const std::vector<RoiCells>& rois, const RoiOrder& order, int64_t begin, int64_t end) {
    int64_t low = INT64_MAX, high = 0;
    for (int64_t i = begin; i < end; ++i) {
      const RoiCells& cells = rois[order.order[i]];
      if (cells.empty()) continue;
      low = std::min<int64_t>(low, cells.top);
      high = std::max<int64_t>(high, cells.bottom);
      patch_cells += cells.count();
      largest_patch = std::max(largest_patch, cells.count());
    }
    if (high > 0) first_row = low, rows = high - low;
  }

  // Whether copying the band of rows once costs less than copying every patch: scattered reads of a channel-major map
  // cost about four times a cell of the streaming pass.
  bool copy_whole(int64_t width, int64_t channel_stride) const {
    return patch_cells * (channel_stride == 1 ? 1 : 4) > rows * width;
  }
};

}  // namespace maskrcnn_ops
