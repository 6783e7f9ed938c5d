#include "roi_align/roi_align.h"

#include <algorithm>
#include <vector>

#include "common/pages.h"
#include "common/roi_order.h"
#include "common/threads.h"
#include "common/work.h"

// Work partition, forward and backward: one task is one level of one image and one block of channels, as many as fill a
// cache line in the accumulation type. The task copies its channels of the map into a private plane [H·W][block] (the
// layout change costs one pass over the map, whatever layout it has), then every tap of every RoI of that map is
// one aligned cache line. RoIs go in spatial order, so the lines of neighbours are still in the L2 cache. Levels are
// the innermost tasks, so that each thread gets large and small ones. Backward runs the same steps transposed: each
// task owns its plane, so there are no atomics and the result does not depend on the number of threads.

namespace maskrcnn_ops {
namespace {

// The distinct values in ascending order.
void sort_unique(std::vector<int32_t>& cells) {
  std::sort(cells.begin(), cells.end());
  cells.erase(std::unique(cells.begin(), cells.end()), cells.end());
}

int32_t slot_of(const std::vector<int32_t>& cells, int32_t cell) {
  return static_cast<int32_t>(std::lower_bound(cells.begin(), cells.end(), cell) - cells.begin());
}

// For the average: weights of one RoI along one axis. Bin p reads `cells[slot]` with `weight` for the entries
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
    sort_unique(cells);
    for (Entry& entry : entries) entry.slot = slot_of(cells, entry.slot);
  }
};

// For the maximum and the gradients of boxes: the sample points of one RoI along one axis, `grid` a bin. A sample reads
// cells[low] and cells[high]; see Tap, slope_at and sample_place.
template <class A>
struct AxisSamples {
  struct Sample {
    int32_t low, high;
    A low_weight, high_weight, slope, place;
  };
  std::vector<int32_t> cells;  // distinct cells, ascending; none if every sample lies outside the map
  std::vector<Sample> samples;
  int grid = 0;

  AxisSamples() = default;

  AxisSamples(const SampleAxis<A>& axis, int pooled, int extent, std::vector<TapEntry<A>>&) : grid(axis.grid) {
    for (int p = 0; p < pooled; ++p)
      for (int i = 0; i < grid; ++i) {
        const A point = sample_point(axis, p, i);
        const Tap<A> tap = tap_at(point, extent);
        samples.push_back(
            {tap.low, tap.high, tap.low_weight, tap.high_weight, slope_at(point, extent), sample_place(axis, p, i)});
        if (tap.low_weight + tap.high_weight > A(0)) cells.insert(cells.end(), {tap.low, tap.high});
      }
    sort_unique(cells);
    for (Sample& sample : samples) {
      sample.low = slot_of(cells, sample.low);
      sample.high = slot_of(cells, sample.high);
    }
  }
};

// Both axes of a RoI, and its map: image and level in one number, level innermost.
template <class Axis>
struct RoiTaps {
  int64_t map = 0;
  Axis y, x;
  bool empty() const { return y.cells.empty() || x.cells.empty(); }
};

// The taps of all RoIs, and the order in which to take them.
template <class Axis, class A>
struct Plan {
  std::vector<RoiTaps<Axis>> taps;
  RoiOrder order;

  Plan(Rois<A> rois, const RoiAlign& args)
      : taps(make_taps(rois, args)), order(cells_of(taps), args.images * args.level_count) {}

 private:
  static std::vector<RoiTaps<Axis>> make_taps(Rois<A> rois, const RoiAlign& args) {
    std::vector<RoiTaps<Axis>> taps(args.rois);
    parallel_for(args.rois, 64, [&](int64_t begin, int64_t end) {
      std::vector<TapEntry<A>> room;
      for (int64_t r = begin; r < end; ++r) {
        const RoiAxes<A> axes = roi_axes(rois, r, args);
        if (axes.image < 0) continue;
        const Level& level = args.levels[axes.level];
        taps[r].map = axes.image * args.level_count + axes.level;
        taps[r].y = Axis(axes.y, args.pooled_height, level.height, room);
        taps[r].x = Axis(axes.x, args.pooled_width, level.width, room);
      }
    });
    return taps;
  }

  static std::vector<RoiCells> cells_of(const std::vector<RoiTaps<Axis>>& taps) {
    std::vector<RoiCells> cells(taps.size());
    for (size_t r = 0; r < taps.size(); ++r)
      if (!taps[r].empty())
        cells[r] = {taps[r].map, taps[r].y.cells.front(), taps[r].y.cells.back() + 1, taps[r].x.cells.front(),
                    taps[r].x.cells.back() + 1};
    return cells;
  }
};

template <class A>
using MeanPlan = Plan<AxisTaps<A>, A>;
template <class A>
using SamplePlan = Plan<AxisSamples<A>, A>;

}  // namespace
}  // namespace maskrcnn_ops

#define SIMD_SOURCE "roi_align/roi_align_cpu.inl"
#include "common/simd_levels.h"

namespace maskrcnn_ops {

template <class T>
void roi_align_cpu(Maps<const T> maps, Rois<Acc<T>> rois, T* output, int32_t* argmax, MapStrides output_strides,
                   const RoiAlign& args) {
  if (args.maximum) {
    const SamplePlan<Acc<T>> plan(rois, args);
    SIMD_CALL(forward, maps, plan, output, argmax, output_strides, args);
  } else {
    const MeanPlan<Acc<T>> plan(rois, args);
    SIMD_CALL(forward, maps, plan, output, argmax, output_strides, args);
  }
}

template <class T>
void roi_align_backward_cpu(const T* grad_output, const int32_t* argmax, MapStrides output_strides, Rois<Acc<T>> rois,
                            Maps<T> grad_maps, const RoiAlign& args) {
  for (int l = 0; l < args.level_count; ++l)
    prefer_huge_pages(grad_maps.level[l],
                      sizeof(T) * args.images * args.channels * args.levels[l].height * args.levels[l].width);
  if (args.maximum) {
    const SamplePlan<Acc<T>> plan(rois, args);
    SIMD_CALL(backward, grad_output, argmax, output_strides, plan, grad_maps, args);
  } else {
    const MeanPlan<Acc<T>> plan(rois, args);
    SIMD_CALL(backward, grad_output, argmax, output_strides, plan, grad_maps, args);
  }
}

template <class T>
void roi_align_backward_boxes_cpu(const T* grad_output, const int32_t* argmax, MapStrides output_strides,
                                  Maps<const T> maps, Rois<Acc<T>> rois, Acc<T>* grad_rois, const RoiAlign& args) {
  const SamplePlan<Acc<T>> plan(rois, args);
  SIMD_CALL(backward_boxes, grad_output, argmax, output_strides, maps, plan, rois, grad_rois, args);
}

#define INSTANTIATE(T)                                                                                                \
  template void roi_align_cpu(Maps<const T>, Rois<Acc<T>>, T*, int32_t*, MapStrides, const RoiAlign&);                \
  template void roi_align_backward_cpu(const T*, const int32_t*, MapStrides, Rois<Acc<T>>, Maps<T>, const RoiAlign&); \
  template void roi_align_backward_boxes_cpu(const T*, const int32_t*, MapStrides, Maps<const T>, Rois<Acc<T>>,       \
                                             Acc<T>*, const RoiAlign&);
INSTANTIATE(Half)
INSTANTIATE(BFloat16)
INSTANTIATE(float)
INSTANTIATE(double)

}  // namespace maskrcnn_ops
