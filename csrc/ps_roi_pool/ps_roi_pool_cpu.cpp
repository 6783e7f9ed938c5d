#include "ps_roi_pool/ps_roi_pool.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "common/pages.h"
#include "common/roi_order.h"
#include "common/threads.h"
#include "common/work.h"

// Work partition, forward and backward: one task is one image, one bin and one block of output channels, as many as
// fill a cache line in the accumulation type. All of them read the same cells of a RoI, each in its own channel of the
// map; so the task copies these channels into a private plane [H·W][block], and then every tap is one aligned line for
// all of them. Where that copy would cost more than the taps (few RoIs, few channels), forward reads the map itself.
// Backward runs the same steps transposed; each task owns the channels it writes and walks the RoIs in a fixed order:
// no atomics, and the same result for any number of threads.

namespace maskrcnn_ops {
namespace {

// The bins of a RoI along one axis: bin p takes the entries first[p] ... first[p + 1] - 1.
template <class A>
struct AxisTaps {
  std::vector<int32_t> first;
  std::vector<A> divisor;
  std::vector<TapEntry<A>> entries;
  int32_t low = INT32_MAX, end = 0;  // the cells of all entries lie in [low, end)

  AxisTaps() = default;

  template <class Bins>
  AxisTaps(const Bins& bins, int pooled) : first(1, 0) {
    for (int p = 0; p < pooled; ++p) {
      const auto bin = bins[p];
      entries.resize(first[p] + bin.taps());
      first.push_back(first[p] + bin.merged_taps(entries.data() + first[p]));
      divisor.push_back(bin.divisor());
    }
    entries.resize(first[pooled]);
    for (const TapEntry<A>& entry : entries) low = std::min(low, entry.cell), end = std::max(end, entry.cell + 1);
  }
};

// The taps of all RoIs, and the order in which to take them.
template <class A>
struct Plan {
  std::vector<AxisTaps<A>> y, x;  // without bins where the RoI reads nothing
  std::vector<RoiCells> cells;
  RoiOrder order;

  template <template <class> class Bins>
  static Plan of(const A* rois, const PsRoiPool& args) {
    std::vector<AxisTaps<A>> y(args.rois), x(args.rois);
    std::vector<RoiCells> cells(args.rois);
    parallel_for(args.rois, 64, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        const PsRoi<Bins, A> roi(rois + 5 * r, args);
        if (roi.image < 0) continue;
        y[r] = AxisTaps<A>(roi.y, args.pooled_height);
        x[r] = AxisTaps<A>(roi.x, args.pooled_width);
        if (y[r].end > 0 && x[r].end > 0) cells[r] = {roi.image, y[r].low, y[r].end, x[r].low, x[r].end};
      }
    });
    RoiOrder order(cells, args.images);
    return {std::move(y), std::move(x), std::move(cells), std::move(order)};
  }
};

}  // namespace
}  // namespace maskrcnn_ops

#define SIMD_SOURCE "ps_roi_pool/ps_roi_pool_cpu.inl"
#include "common/simd_levels.h"

namespace maskrcnn_ops {

template <template <class> class Bins, class T>
void ps_roi_pool_cpu(const T* input, MapStrides input_strides, const Acc<T>* rois, T* output, MapStrides output_strides,
                     const PsRoiPool& args) {
  const auto plan = Plan<Acc<T>>::template of<Bins>(rois, args);
  SIMD_CALL(forward, input, input_strides, plan, output, output_strides, args);
}

template <template <class> class Bins, class T>
void ps_roi_pool_backward_cpu(const T* grad_output, MapStrides grad_strides, const Acc<T>* rois, T* grad_input,
                              MapStrides input_strides, const PsRoiPool& args) {
  const auto plan = Plan<Acc<T>>::template of<Bins>(rois, args);
  SIMD_CALL(backward, grad_output, grad_strides, plan, grad_input, input_strides, args);
}

#define INSTANTIATE(Bins, T)                                                                                  \
  template void ps_roi_pool_cpu<Bins>(const T*, MapStrides, const Acc<T>*, T*, MapStrides, const PsRoiPool&); \
  template void ps_roi_pool_backward_cpu<Bins>(const T*, MapStrides, const Acc<T>*, T*, MapStrides, const PsRoiPool&);
#define INSTANTIATE_BOTH(T)   \
  INSTANTIATE(SampledBins, T) \
  INSTANTIATE(WholeBins, T)
INSTANTIATE_BOTH(Half)
INSTANTIATE_BOTH(BFloat16)
INSTANTIATE_BOTH(float)
INSTANTIATE_BOTH(double)

}  // namespace maskrcnn_ops
