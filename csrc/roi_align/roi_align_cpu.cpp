#include "roi_align/roi_align.h"

#include <algorithm>
#include <numeric>
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

// Weights of one RoI along one axis, merged: bin p reads `cells[slot]` with `weight` for the entries
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
};

template <class A>
struct RoiTaps {
  AxisTaps<A> y, x;
  bool empty() const { return y.entries.empty() || x.entries.empty(); }
};

template <class A, class C>
AxisTaps<A> make_taps(const SampleAxis<C>& axis, int64_t pooled, int64_t extent) {
  AxisTaps<A> taps;
  taps.first.assign(pooled + 1, 0);
  std::vector<typename AxisTaps<A>::Entry>& entries = taps.entries;
  auto add = [&](size_t begin, int64_t cell, A weight) {
    if (weight == A(0)) return;
    // Points are monotone along the axis, so an equal cell is among the last two entries of the bin.
    for (size_t back = 1; back <= 2 && entries.size() >= begin + back; ++back) {
      auto& entry = entries[entries.size() - back];
      if (entry.slot == cell) {
        entry.weight += weight;
        return;
      }
    }
    entries.push_back({static_cast<int32_t>(cell), weight});
  };
  for (int64_t p = 0; p < pooled; ++p) {
    const size_t begin = entries.size();
    for (int64_t i = 0; i < axis.grid; ++i) {
      const Tap<C> tap = tap_at(sample_point(axis, p, i), extent);
      add(begin, tap.low, static_cast<A>(tap.low_weight / static_cast<C>(axis.grid)));
      add(begin, tap.high, static_cast<A>(tap.high_weight / static_cast<C>(axis.grid)));
    }
    taps.first[p + 1] = static_cast<int32_t>(entries.size());
  }
  for (const auto& entry : entries) taps.cells.push_back(entry.slot);
  std::sort(taps.cells.begin(), taps.cells.end());
  taps.cells.erase(std::unique(taps.cells.begin(), taps.cells.end()), taps.cells.end());
  for (auto& entry : entries)
    entry.slot = static_cast<int32_t>(std::lower_bound(taps.cells.begin(), taps.cells.end(), entry.slot) -
                                      taps.cells.begin());
  return taps;
}

template <class A, class C>
RoiTaps<A> make_roi_taps(const C* roi, const RoiAlign& args) {
  for (int i = 1; i < 5; ++i)
    if (!is_finite(roi[i])) return {};
  const C scale = static_cast<C>(args.spatial_scale);
  return {make_taps<A>(sample_axis(roi[2], roi[4], scale, args.pooled_height, args.sampling_ratio, args.aligned,
                                   args.height),
                       args.pooled_height, args.height),
          make_taps<A>(sample_axis(roi[1], roi[3], scale, args.pooled_width, args.sampling_ratio, args.aligned,
                                   args.width),
                       args.pooled_width, args.width)};
}

// The taps of all RoIs, and for each image its RoIs in spatial order.
template <class A>
struct Plan {
  std::vector<RoiTaps<A>> taps;
  std::vector<int64_t> order;        // RoI indices, grouped by image
  std::vector<int64_t> image_first;  // order[image_first[n] ... image_first[n + 1] - 1] belong to image n

  template <class C>
  Plan(const C* rois, const RoiAlign& args) : taps(args.rois), order(args.rois), image_first(args.images + 1, 0) {
    parallel_for(args.rois, 64, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) taps[r] = make_roi_taps<A>(rois + 5 * r, args);
    });
    auto image = [&](int64_t r) { return static_cast<int64_t>(rois[5 * r]); };
    for (int64_t r = 0; r < args.rois; ++r) ++image_first[image(r) + 1];
    std::partial_sum(image_first.begin(), image_first.end(), image_first.begin());
    constexpr int32_t band = 32;  // rows of the map that stay in cache together
    auto key = [&](int64_t r) {
      const RoiTaps<A>& t = taps[r];
      return t.empty() ? std::make_tuple(image(r), int32_t(-1), int32_t(-1))
                       : std::make_tuple(image(r), t.y.cells[0] / band, t.x.cells[0]);
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

template <class T, class C>
void roi_align_cpu(const T* input, MapStrides input_strides, const C* rois, T* output, MapStrides output_strides,
                   const RoiAlign& args) {
  const Plan<Acc<T>> plan(rois, args);
  SIMD_CALL(forward, input, input_strides, plan, output, output_strides, args);
}

template <class T, class C>
void roi_align_backward_cpu(const T* grad_output, MapStrides output_strides, const C* rois, T* grad_input,
                            MapStrides input_strides, const RoiAlign& args) {
  const Plan<Acc<T>> plan(rois, args);
  SIMD_CALL(backward, grad_output, output_strides, plan, grad_input, input_strides, args);
}

#define INSTANTIATE(T, C)                                                                                      \
  template void roi_align_cpu(const T*, MapStrides, const C*, T*, MapStrides, const RoiAlign&);                \
  template void roi_align_backward_cpu(const T*, MapStrides, const C*, T*, MapStrides, const RoiAlign&);
INSTANTIATE(Half, float)
INSTANTIATE(Half, double)
INSTANTIATE(BFloat16, float)
INSTANTIATE(BFloat16, double)
INSTANTIATE(float, float)
INSTANTIATE(float, double)
INSTANTIATE(double, float)
INSTANTIATE(double, double)

}  // namespace maskrcnn_ops
