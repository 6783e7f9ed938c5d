#pragma once

// RoIAlign (He et al., Mask R-CNN, 2017): average of bilinear samples, no rounding anywhere.
//
// Sampling is separable: for one RoI the weights along y and along x are independent, so
//     output = A_y · F · A_xᵀ,
// where row p of A holds the summed hat weights of bin p's sample points. Forward gathers with these taps and
// backward scatters with the same taps.

#include <cstdint>

#include "common/maps.h"
#include "common/scalar.h"

namespace maskrcnn_ops {

// Sizes and options of one call.
struct RoiAlign {
  int64_t images, rois;
  int channels, height, width;
  int pooled_height, pooled_width, sampling_ratio;
  double spatial_scale;
  bool aligned;
};

// The sample points of one RoI along one axis: bin p averages the points start + p * bin + (i + 0.5) * bin / grid,
// i = 0 ... grid - 1, in map cells (cell k has its centre at k).
template <class C>
struct SampleAxis {
  C start, bin;
  int grid;
};

// The two cells that a sample point reads. Both weights are zero outside the map.
template <class C>
struct Tap {
  int low, high;
  C low_weight, high_weight;
};

// An adaptive grid is ceil(side / pooled), at most two samples a cell of the map and some: beyond it almost
// every sample of a bin lies outside the map, and the work must stay bounded.
template <class C>
HOST_DEVICE SampleAxis<C> sample_axis(C low, C high, C scale, int pooled, int ratio, bool aligned, int extent) {
  const C start = low * scale - (aligned ? C(0.5) : C(0));
  C side = high * scale - (aligned ? C(0.5) : C(0)) - start;
  if (!aligned && side < C(1)) side = C(1);
  const C bin = side / static_cast<C>(pooled);
  if (ratio > 0) return {start, bin, ratio};
  const int most = 2 * extent + 8;
  if (!(bin > C(0))) return {start, bin, 0};
  if (bin >= static_cast<C>(most)) return {start, bin, most};
  const int grid = static_cast<int>(bin);
  return {start, bin, grid + (static_cast<C>(grid) < bin ? 1 : 0)};
}

template <class C>
HOST_DEVICE C sample_point(const SampleAxis<C>& axis, int p, int i) {
  return axis.start + static_cast<C>(p) * axis.bin +
         (static_cast<C>(i) + C(0.5)) * axis.bin / static_cast<C>(axis.grid);
}

// Bilinear weights of a point along one axis of a map with `extent` cells. Points up to one cell outside take
// the border cell; points further out, and NaN, weigh nothing.
template <class C>
HOST_DEVICE Tap<C> tap_at(C point, int extent) {
  if (!(point >= C(-1) && point <= static_cast<C>(extent))) return {0, 0, C(0), C(0)};
  if (point <= C(0)) point = C(0);
  const int low = static_cast<int>(point);
  if (low >= extent - 1) return {extent - 1, extent - 1, C(1), C(0)};
  const C fraction = point - static_cast<C>(low);
  return {low, low + 1, C(1) - fraction, fraction};
}

// One merged weight of a bin: `cell` contributes `weight`, which already holds the division by the grid.
template <class C>
struct TapEntry {
  int cell;
  C weight;
};

// Writes the entries of bin p, at most 2 * grid of them, and returns their number.
template <class C>
HOST_DEVICE int bin_taps(const SampleAxis<C>& axis, int p, int extent, TapEntry<C>* entries) {
  int count = 0;
  for (int i = 0; i < axis.grid; ++i) {
    const Tap<C> tap = tap_at(sample_point(axis, p, i), extent);
    for (int side = 0; side < 2; ++side) {
      const int cell = side ? tap.high : tap.low;
      const C weight = (side ? tap.high_weight : tap.low_weight) / static_cast<C>(axis.grid);
      if (weight == C(0)) continue;
      // Points are monotone along the axis, so an equal cell is among the last two entries.
      if (count > 0 && entries[count - 1].cell == cell) entries[count - 1].weight += weight;
      else if (count > 1 && entries[count - 2].cell == cell) entries[count - 2].weight += weight;
      else entries[count++] = {cell, weight};
    }
  }
  return count;
}

// Weight with which one cell contributes to bin p: the entry of `bin_taps` for that cell, or zero.
template <class C>
HOST_DEVICE C cell_weight(const SampleAxis<C>& axis, int p, int extent, int cell) {
  C sum = C(0);
  for (int i = 0; i < axis.grid; ++i) {
    const Tap<C> tap = tap_at(sample_point(axis, p, i), extent);
    if (tap.low == cell) sum += tap.low_weight / static_cast<C>(axis.grid);
    if (tap.high == cell) sum += tap.high_weight / static_cast<C>(axis.grid);
  }
  return sum;
}

// The two axes of a RoI (image index, x1, y1, x2, y2), and its image; -1 where the RoI reads nothing because the
// index lies outside the batch or a number is not finite.
template <class C>
struct RoiAxes {
  int64_t image;
  SampleAxis<C> y, x;
};

template <class C>
HOST_DEVICE RoiAxes<C> roi_axes(const C* roi, const RoiAlign& args) {
  const C scale = static_cast<C>(args.spatial_scale);
  RoiAxes<C> axes;
  axes.y = sample_axis(roi[2], roi[4], scale, args.pooled_height, args.sampling_ratio, args.aligned, args.height);
  axes.x = sample_axis(roi[1], roi[3], scale, args.pooled_width, args.sampling_ratio, args.aligned, args.width);
  const bool readable = is_finite(roi[0]) && roi[0] >= C(0) && roi[0] < static_cast<C>(args.images) &&
                        is_finite(roi[3]) && is_finite(roi[4]) && is_finite(axes.y.start) && is_finite(axes.y.bin) &&
                        is_finite(axes.x.start) && is_finite(axes.x.bin);
  axes.image = readable ? static_cast<int64_t>(roi[0]) : -1;
  return axes;
}

HOST_DEVICE int parts(int whole, int part) { return whole / part + (whole % part > 0); }

// The part of grad_input that one CUDA block owns: a tile of cells of one image, for some channels. Grid: x counts the
// tiles of a map, row by row; y the chunks of channels; z the images.
struct BackwardTile {
  static constexpr int rows = 8, columns = 32, channels = 8;
  int64_t image;
  int first_channel, first_row, first_column;

  static HOST_DEVICE int tiles(const RoiAlign& args) { return parts(args.height, rows) * parts(args.width, columns); }
  HOST_DEVICE BackwardTile(int64_t image, int tile, int chunk, const RoiAlign& args)
      : image(image),
        first_channel(chunk * channels),
        first_row(tile / parts(args.width, columns) * rows),
        first_column(tile % parts(args.width, columns) * columns) {}

  // Whether the RoI may read a cell of the tile. Never wrongly false: a sample reads cells less than one from it,
  // or the border cell if it lies outside by at most one.
  template <class C>
  HOST_DEVICE bool touches(const RoiAxes<C>& roi, const RoiAlign& args) const {
    return roi.image == image && near(roi.y, args.pooled_height, first_row, rows) &&
           near(roi.x, args.pooled_width, first_column, columns);
  }

 private:
  template <class C>
  static HOST_DEVICE bool near(const SampleAxis<C>& axis, int pooled, int first, int size) {
    const C end = axis.start + static_cast<C>(pooled) * axis.bin;
    const C low = axis.start < end ? axis.start : end, high = axis.start < end ? end : axis.start;
    return high >= static_cast<C>(first - 2) && low <= static_cast<C>(first + size + 1);
  }
};

// Kernels. All pointers lie on one device; `rois` is [rois, 5]: image index, x1, y1, x2, y2, in the type the kernel
// accumulates in. `output` and `grad_output` are [rois, channels, pooled_height, pooled_width] with the given strides;
// `input` and `grad_input` are [images, channels, height, width].
template <class T>
void roi_align_cpu(const T* input, MapStrides input_strides, const Acc<T>* rois, T* output, MapStrides output_strides,
                   const RoiAlign& args);
template <class T>
void roi_align_backward_cpu(const T* grad_output, MapStrides output_strides, const Acc<T>* rois, T* grad_input,
                            MapStrides input_strides, const RoiAlign& args);
template <class T>
int roi_align_cuda(const T* input, MapStrides input_strides, const Acc<T>* rois, T* output, MapStrides output_strides,
                   const RoiAlign& args, void* stream);
template <class T>
int roi_align_backward_cuda(const T* grad_output, MapStrides output_strides, const Acc<T>* rois, T* grad_input,
                            MapStrides input_strides, const RoiAlign& args, void* stream);

}  // namespace maskrcnn_ops
