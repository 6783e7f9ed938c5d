#include "roi_align/roi_align.h"

#include <algorithm>
#include <vector>

#include "common/pages.h"
#include "common/roi_order.h"
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
  int64_t image = 0;
  AxisTaps<A> y, x;
  bool empty() const { return y.entries.empty() || x.entries.empty(); }
};

// The taps of all RoIs, and the order in which to take them.
template <class A>
struct Plan {
  std::vector<RoiTaps<A>> taps;
  RoiOrder order;

  Plan(const A* rois, const RoiAlign& args) : taps(make_taps(rois, args)), order(cells_of(taps), args.images) {}

 private:
  static std::vector<RoiTaps<A>> make_taps(const A* rois, const RoiAlign& args) {
    std::vector<RoiTaps<A>> taps(args.rois);
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
    return taps;
  }

  static std::vector<RoiCells> cells_of(const std::vector<RoiTaps<A>>& taps) {
    std::vector<RoiCells> cells(taps.size());
    for (size_t r = 0; r < taps.size(); ++r)
      if (!taps[r].empty())
        cells[r] = {taps[r].image, taps[r].y.cells.front(), taps[r].y.cells.back() + 1, taps[r].x.cells.front(),
                    taps[r].x.cells.back() + 1};
    return cells;
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
  prefer_huge_pages(output, sizeof(T) * args.rois * args.channels * args.pooled_height * args.pooled_width);
  SIMD_CALL(forward, input, input_strides, plan, output, output_strides, args);
}

template <class T>
void roi_align_backward_cpu(const T* grad_output, MapStrides output_strides, const Acc<T>* rois, T* grad_input,
                            MapStrides input_strides, const RoiAlign& args) {
  const Plan<Acc<T>> plan(rois, args);
  prefer_huge_pages(grad_input, sizeof(T) * args.images * args.channels * args.height * args.width);
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
