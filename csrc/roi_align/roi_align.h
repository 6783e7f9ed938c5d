#pragma once

// RoIAlign (He et al., Mask R-CNN, 2017): average of bilinear samples, no rounding anywhere.
//
// Sampling is separable: for one RoI the weights along y and along x are independent, so
//     output = A_y · F · A_xᵀ,
// where row p of A holds the summed hat weights of bin p's sample points. Forward gathers with these taps and
// backward scatters with the same taps.

#include <cstdint>

#include "common/maps.h"

namespace maskrcnn_ops {

// Sizes and options of one call.
struct RoiAlign {
  int64_t images, channels, height, width;
  int64_t rois, pooled_height, pooled_width;
  int64_t sampling_ratio;
  double spatial_scale;
  bool aligned;
};

// The sample points of one RoI along one axis: bin p averages the points start + p * bin + (i + 0.5) * bin / grid,
// i = 0 ... grid - 1, in map cells (cell k has its centre at k).
template <class C>
struct SampleAxis {
  C start, bin;
  int64_t grid;
};

// The two cells that a sample point reads. Both weights are zero outside the map.
template <class C>
struct Tap {
  int64_t low, high;
  C low_weight, high_weight;
};

// An adaptive grid is ceil(side / pooled), at most two samples a cell of the map and some: beyond it almost
// every sample of a bin lies outside the map, and the work must stay bounded.
template <class C>
HOST_DEVICE SampleAxis<C> sample_axis(C low, C high, C scale, int64_t pooled, int64_t ratio, bool aligned,
                                      int64_t extent) {
  const C start = low * scale - (aligned ? C(0.5) : C(0));
  C side = high * scale - (aligned ? C(0.5) : C(0)) - start;
  if (!aligned && side < C(1)) side = C(1);
  const C bin = side / static_cast<C>(pooled);
  if (ratio > 0) return {start, bin, ratio};
  const int64_t most = 2 * extent + 8;
  if (!(bin > C(0))) return {start, bin, 0};
  if (bin >= static_cast<C>(most)) return {start, bin, most};
  const int64_t grid = static_cast<int64_t>(bin);
  return {start, bin, grid + (static_cast<C>(grid) < bin ? 1 : 0)};
}

template <class C>
HOST_DEVICE C sample_point(const SampleAxis<C>& axis, int64_t p, int64_t i) {
  return axis.start + static_cast<C>(p) * axis.bin +
         (static_cast<C>(i) + C(0.5)) * axis.bin / static_cast<C>(axis.grid);
}

// Bilinear weights of a point along one axis of a map with `extent` cells. Points up to one cell outside take
// the border cell; points further out, and NaN, weigh nothing.
template <class C>
HOST_DEVICE Tap<C> tap_at(C point, int64_t extent) {
  if (!(point >= C(-1) && point <= static_cast<C>(extent))) return {0, 0, C(0), C(0)};
  if (point <= C(0)) point = C(0);
  const int64_t low = static_cast<int64_t>(point);
  if (low >= extent - 1) return {extent - 1, extent - 1, C(1), C(0)};
  const C fraction = point - static_cast<C>(low);
  return {low, low + 1, C(1) - fraction, fraction};
}

// Kernels. All pointers lie on one device; `rois` is [rois, 5]: image index, x1, y1, x2, y2.
// `output` and `grad_output` are [rois, channels, pooled_height, pooled_width] with the given strides
// (image = RoI, row and column = bin); `input` and `grad_input` are [images, channels, height, width].
// T: element type; C: coordinate type (float or double).
template <class T, class C>
void roi_align_cpu(const T* input, MapStrides input_strides, const C* rois, T* output, MapStrides output_strides,
                   const RoiAlign& args);
template <class T, class C>
void roi_align_backward_cpu(const T* grad_output, MapStrides output_strides, const C* rois, T* grad_input,
                            MapStrides input_strides, const RoiAlign& args);

}  // namespace maskrcnn_ops
