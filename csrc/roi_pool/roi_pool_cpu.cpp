#include "roi_pool/roi_pool.h"

#include <algorithm>
#include <type_traits>
#include <vector>

#include "common/pages.h"
#include "common/roi_order.h"
#include "common/threads.h"
#include "common/work.h"

// Forward: one task is one image and one block of channels, as many as fill a cache line in the accumulation type. The
// task copies its channels of the map into a private plane [H·W][block] (for few RoIs, into a patch per RoI); then
// every cell of a bin is one aligned line, and the maximum and its position are taken lane by lane.
// Backward: one task is a dense piece of grad_input, which no other task writes: some channels of a contiguous one,
// some rows of a channels_last one. It walks the RoIs in a fixed order and adds each bin's gradient at its position: no
// atomics, and the same result for any number of threads.

namespace maskrcnn_ops {
namespace {

// The bins of all RoIs as cells of the map, and the order in which to take the RoIs.
template <class A>
struct Plan {
  std::vector<CellRange> ranges;  // for each RoI pooled_height along y, then pooled_width along x
  std::vector<RoiCells> cells;
  RoiOrder order;

  Plan(const A* rois, const RoiPool& args)
      : ranges(args.rois * (args.pooled_height + args.pooled_width)),
        cells(find(rois, args)),
        order(cells, args.images) {}

  const CellRange* of(int64_t roi, const RoiPool& args) const {
    return ranges.data() + roi * (args.pooled_height + args.pooled_width);
  }

 private:
  std::vector<RoiCells> find(const A* rois, const RoiPool& args) {
    std::vector<RoiCells> found(args.rois);
    parallel_for(args.rois, 256, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        const RoiBins<A> bins = roi_bins(rois + 5 * r, args);
        if (bins.image < 0) continue;
        CellRange* y = ranges.data() + r * (args.pooled_height + args.pooled_width);
        CellRange* x = y + args.pooled_height;
        for (int p = 0; p < args.pooled_height; ++p) y[p] = bin_cells(bins.y, p, args.height);
        for (int p = 0; p < args.pooled_width; ++p) x[p] = bin_cells(bins.x, p, args.width);
        found[r] = {bins.image, y[0].first, y[args.pooled_height - 1].last, x[0].first, x[args.pooled_width - 1].last};
      }
    });
    return found;
  }
};

}  // namespace
}  // namespace maskrcnn_ops

#define SIMD_SOURCE "roi_pool/roi_pool_cpu.inl"
#include "common/simd_levels.h"

namespace maskrcnn_ops {

template <class T>
void roi_pool_cpu(const T* input, MapStrides input_strides, const Acc<T>* rois, T* output, int32_t* argmax,
                  MapStrides output_strides, const RoiPool& args) {
  const Plan<Acc<T>> plan(rois, args);
  SIMD_CALL(forward, input, input_strides, plan, output, argmax, output_strides, args);
}

template <class T>
void roi_pool_backward_cpu(const T* grad_output, MapStrides grad_strides, const int32_t* argmax,
                           MapStrides argmax_strides, const Acc<T>* rois, T* grad_input, MapStrides input_strides,
                           const RoiPool& args) {
  const Plan<Acc<T>> plan(rois, args);
  SIMD_CALL(backward, grad_output, grad_strides, argmax, argmax_strides, plan, grad_input, input_strides.channel == 1,
            args);
}

#define INSTANTIATE(T)                                                                                                 \
  template void roi_pool_cpu(const T*, MapStrides, const Acc<T>*, T*, int32_t*, MapStrides, const RoiPool&);           \
  template void roi_pool_backward_cpu(const T*, MapStrides, const int32_t*, MapStrides, const Acc<T>*, T*, MapStrides, \
                                      const RoiPool&);
INSTANTIATE(Half)
INSTANTIATE(BFloat16)
INSTANTIATE(float)
INSTANTIATE(double)

}  // namespace maskrcnn_ops
