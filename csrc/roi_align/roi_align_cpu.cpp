#include "roi_align/roi_align.h"

#include <algorithm>
#include <numeric>
#include <tuple>
#include <vector>

#include "common/threads.h"
#include "common/work.h"

// Work partition, forward and backward: one task is one image and one block of channels, as many as fill a cache
// line in the accumulation type. The task copies its channels of the map into a private plane [H·W][block] (the
// layout change costs one pass over the map, whatever layout it has), then every tap of every RoI of that image is
// one aligned cache line. RoIs go in spatial order, so the lines of neighbours are still in the L2 cache.
// Backward runs the same steps transposed: each task owns its plane, so there are no atomics and the result does
// not depend on the number of threads.

namespace maskrcnn_ops {
namespace {

// Weights of one RoI along one axis: bin p reads `cells[slot]` with `weight` for the entries
// first[p] ... first[p + 1] - 1.
template <class A>
struct AxisTaps {
  struct Entry {
    int32_t slot;
    A weight;
  };
  std::vector<int32_t> cells;  // distinct cells, ascending
  std::vector<int32_t> first;
  std::vector<Entry> entries;

  AxisTaps() = default;

  AxisTaps(const SampleAxis<A>& axis, int pooled, int extent, std::vector<TapEntry<A>>& room) : first(pooled + 1, 0) {
    room.resize(2 * axis.grid);
    for (int p = 0; p < pooled; ++p) {
      const int count = bin_taps(axis, p, extent, room.data());
      for (int e = 0; e < count; ++e) entries.push_back({room[e].cell, room[e].weight});
      first[p + 1] = static_cast<int32_t>(entries.size());
    }
    for (const Entry& entry : entries) cells.push_back(entry.slot);
    std::sort(cells.begin(), cells.end());
    cells.erase(std::unique(cells.begin(), cells.end()), cells.end());
    for (Entry& entry : entries)
      entry.slot = static_cast<int32_t>(std::lower_bound(cells.begin(), cells.end(), entry.slot) - cells.begin());
  }
};

template <class A>
struct RoiTaps {
  int64_t image = 0;  // a RoI that reads nothing counts to the first image
  AxisTaps<A> y, x;
  bool empty() const { return y.entries.empty() || x.entries.empty(); }
};

// The taps of all RoIs, and for each image its RoIs in spatial order.
template <class A>
struct Plan {
  std::vector<RoiTaps<A>> taps;
  std::vector<int64_t> order;        // RoI indices, grouped by image
  std::vector<int64_t> image_first;  // order[image_first[n] ... image_first[n + 1] - 1] belong to image n

  Plan(const A* rois, const RoiAlign& args) : taps(args.rois), order(args.rois), image_first(args.images + 1, 0) {
    parallel_for(args.rois, 64, [&](int64_t begin, int64_t end) {
      std::vector<TapEntry<A>> room;
      for (int64_t r = begin; r < end; ++r) {
        const RoiAxes<A> axes = roi_axes(rois + 5 * r, args);
        if (axes.image < 0) continue;
        taps[r].image = axes.image;
        taps[r].y = AxisTaps<A>(axes.y, args.pooled_height, args.height, room);
        taps[r].x = AxisTaps<A>(axes.x, args.pooled_width, args.width, room);
      }
    });
    for (const RoiTaps<A>& each : taps) ++image_first[each.image + 1];
    std::partial_sum(image_first.begin(), image_first.end(), image_first.begin());
    constexpr int32_t band = 32;  // rows of the map that stay in cache together
    auto key = [&](int64_t r) {
      const RoiTaps<A>& t = taps[r];
      return t.empty() ? std::make_tuple(t.image, int32_t(-1), int32_t(-1))
                       : std::make_tuple(t.image, t.y.cells[0] / band, t.x.cells[0]);
    };
    std::iota(order.begin(), order.end(), int64_t(0));
    std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return key(a) < key(b); });
  }
};

}  // namespace
}  // namespace maskrcnn_ops

#define SIMD_SOURCE "roi_align/roi_align_cpu.inl"
#include "common/simd_levels.h"

namespace maskrcnn_ops {

template <class T>
void roi_align_cpu(const T* input, MapStrides input_strides, const Acc<T>* rois, T* output, MapStrides output_strides,
                   const RoiAlign& args) {
  const Plan<Acc<T>> plan(rois, args);
  SIMD_CALL(forward, input, input_strides, plan, output, output_strides, args);
}

template <class T>
void roi_align_backward_cpu(const T* grad_output, MapStrides output_strides, const Acc<T>* rois, T* grad_input,
                            MapStrides input_strides, const RoiAlign& args) {
  const Plan<Acc<T>> plan(rois, args);
  SIMD_CALL(backward, grad_output, output_strides, plan, grad_input, input_strides, args);
}

#define INSTANTIATE(T)                                                                               \
  template void roi_align_cpu(const T*, MapStrides, const Acc<T>*, T*, MapStrides, const RoiAlign&); \
  template void roi_align_backward_cpu(const T*, MapStrides, const Acc<T>*, T*, MapStrides, const RoiAlign&);
INSTANTIATE(Half)
INSTANTIATE(BFloat16)
INSTANTIATE(float)
INSTANTIATE(double)

}  // namespace maskrcnn_ops
