#pragma once

// RoIAlign (He et al., Mask R-CNN, 2017): average or maximum of bilinear samples, no rounding anywhere, from one map or
// from the levels of a feature pyramid, all in one call.
//
// Sampling is separable: for one RoI the weights along y and along x are independent, so
//     output = A_y · F · A_xᵀ,
// where row p of A holds the summed hat weights of bin p's sample points. Forward gathers with these taps and
// backward scatters with the same taps. The maximum is not separable; it and the gradients of the boxes take the
// samples one by one.

#include <cstdint>

#include "common/maps.h"
#include "common/scalar.h"
#include "roi_align/levels.h"

namespace maskrcnn_ops {

// One level: its map [images, channels, height, width], and cells per image pixel.
struct Level {
  int height, width;
  double spatial_scale;
  MapStrides strides;
};

// Sizes and options of one call.
struct RoiAlign {
  int64_t images, rois;
  int channels;
  int pooled_height, pooled_width, sampling_ratio;
  bool aligned, maximum;
  int level_count;
  Level levels[most_levels];
  LevelRule rule;
};

// The first element of each level's map.
template <class T>
struct Maps {
  T* level[most_levels];
};

// Regions [rois, 5]: image index, x1, y1, x2, y2. `levels` [rois] holds the level of each, or is null: then the rule
// chooses.
template <class C>
struct Rois {
  const C* boxes;
  const int32_t* levels;
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

// Derivative of the bilinear value along one axis, in units of (value at high - value at low): none where the border
// is repeated or the point lies outside.
template <class C>
HOST_DEVICE C slope_at(C point, int extent) {
  return point > C(0) && point < static_cast<C>(extent - 1) ? C(1) : C(0);
}

// How far along the axis sample i of bin p lies, in bins: the derivative of the point with respect to the bin's side.
template <class C>
HOST_DEVICE C sample_place(const SampleAxis<C>& axis, int p, int i) {
  return static_cast<C>(p) + (static_cast<C>(i) + C(0.5)) / static_cast<C>(axis.grid);
}

// Gradients of both corners along one axis, from those of its start and of its bin's side.
template <class C>
struct CornerGradients {
  C low, high;
};

template <class C>
HOST_DEVICE CornerGradients<C> corner_gradients(C low, C high, C scale, int pooled, bool aligned, C start, C bin) {
  const bool widened = !aligned && high * scale - low * scale < C(1);
  const C stretch = widened ? C(0) : scale * bin / static_cast<C>(pooled);
  return {scale * start - stretch, stretch};
}

// The two axes of a RoI, its level and its image; -1 where the RoI reads nothing because its image or level does not
// exist, the map has no cells, or a number is not finite.
template <class C>
struct RoiAxes {
  int64_t image;
  int level;
  SampleAxis<C> y, x;
};

template <class C>
HOST_DEVICE RoiAxes<C> roi_axes(const Rois<C>& rois, int64_t r, const RoiAlign& args) {
  const C* roi = rois.boxes + 5 * r;
  RoiAxes<C> axes;
  axes.level = rois.levels != nullptr ? rois.levels[r] : level_of(roi, args.rule);
  bool known = axes.level >= 0 && axes.level < args.level_count;
  if (!known) axes.level = 0;
  const Level& level = args.levels[axes.level];
  known = known && level.height > 0 && level.width > 0;
  const C scale = static_cast<C>(level.spatial_scale);
  axes.y = sample_axis(roi[2], roi[4], scale, args.pooled_height, args.sampling_ratio, args.aligned, level.height);
  axes.x = sample_axis(roi[1], roi[3], scale, args.pooled_width, args.sampling_ratio, args.aligned, level.width);
  const bool readable = known && is_finite(roi[0]) && roi[0] >= C(0) && roi[0] < static_cast<C>(args.images) &&
                        is_finite(roi[3]) && is_finite(roi[4]) && is_finite(axes.y.start) && is_finite(axes.y.bin) &&
                        is_finite(axes.x.start) && is_finite(axes.x.bin);
  axes.image = readable ? static_cast<int64_t>(roi[0]) : -1;
  return axes;
}

HOST_DEVICE int parts(int whole, int part) { return whole / part + (whole % part > 0); }

// The part of the gradients that one CUDA block owns: a tile of cells of one image's level, for some channels. Grid: x
// counts the tiles of the levels, row by row; y the chunks of channels; z the images.
struct BackwardTile {
  static constexpr int rows = 8, columns = 32, channels = 8;
  int64_t image;
  int level, first_channel, first_row, first_column;

  static HOST_DEVICE int tiles(const Level& level) { return parts(level.height, rows) * parts(level.width, columns); }
  static HOST_DEVICE int tiles(const RoiAlign& args) {
    int sum = 0;
    for (int l = 0; l < args.level_count; ++l) sum += tiles(args.levels[l]);
    return sum;
  }
  HOST_DEVICE BackwardTile(int64_t image, int tile, int chunk, const RoiAlign& args)
      : image(image), level(0), first_channel(chunk * channels) {
    for (; tile >= tiles(args.levels[level]); ++level) tile -= tiles(args.levels[level]);
    const int across = parts(args.levels[level].width, columns);
    first_row = tile / across * rows;
    first_column = tile % across * columns;
  }

  // Whether the RoI may read a cell of the tile. Never wrongly false: a sample reads cells less than one from it,
  // or the border cell if it lies outside by at most one.
  template <class C>
  HOST_DEVICE bool touches(const RoiAxes<C>& roi, const RoiAlign& args) const {
    return roi.image == image && roi.level == level && near(roi.y, args.pooled_height, first_row, rows) &&
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

// Kernels. All pointers lie on one device; RoIs are in the type the kernel accumulates in. `output` and `grad_output`
// are [rois, channels, pooled_height, pooled_width] with the given strides. `argmax`, in the output's layout, is used
// for the maximum only: the bin's sample that won, row * grid + column, the first of equal ones; -1 where nothing is
// read. `grad_rois` is [rois, 5].
template <class T>
void roi_align_cpu(Maps<const T> maps, Rois<Acc<T>> rois, T* output, int32_t* argmax, MapStrides output_strides,
                   const RoiAlign& args);
template <class T>
void roi_align_backward_cpu(const T* grad_output, const int32_t* argmax, MapStrides output_strides, Rois<Acc<T>> rois,
                            Maps<T> grad_maps, const RoiAlign& args);
template <class T>
void roi_align_backward_boxes_cpu(const T* grad_output, const int32_t* argmax, MapStrides output_strides,
                                  Maps<const T> maps, Rois<Acc<T>> rois, Acc<T>* grad_rois, const RoiAlign& args);
template <class T>
int roi_align_cuda(Maps<const T> maps, Rois<Acc<T>> rois, T* output, int32_t* argmax, MapStrides output_strides,
                   const RoiAlign& args, void* stream);
template <class T>
int roi_align_backward_cuda(const T* grad_output, const int32_t* argmax, MapStrides output_strides, Rois<Acc<T>> rois,
                            Maps<T> grad_maps, const RoiAlign& args, void* stream);
template <class T>
int roi_align_backward_boxes_cuda(const T* grad_output, const int32_t* argmax, MapStrides output_strides,
                                  Maps<const T> maps, Rois<Acc<T>> rois, Acc<T>* grad_rois, const RoiAlign& args,
                                  void* stream);

}  // namespace maskrcnn_ops
