#pragma once

// Masks cropped to RoIs and resampled to M x M: RoIAlign (adaptive sampling, scale 1) of the mask as a map of zeros
// and ones, which is never made: columns are read where the RoI samples them. The sample points and weights are those
// of roi_align.h.

#include "crop_masks/mask_sources.h"
#include "roi_align/roi_align.h"

namespace maskrcnn_ops {

struct CropMasks {
  int64_t objects, rois;
  int height, width;  // of the image
  int pooled_height, pooled_width;
  bool aligned;
};

// One RoI (object, x1, y1, x2, y2); object -1 where it reads nothing.
template <class C>
struct CropAxes {
  int64_t object;
  SampleAxis<C> y, x;
};

template <class C>
HOST_DEVICE CropAxes<C> crop_axes(const C* roi, const CropMasks& args) {
  CropAxes<C> axes;
  axes.y = sample_axis(roi[2], roi[4], C(1), args.pooled_height, -1, args.aligned, args.height);
  axes.x = sample_axis(roi[1], roi[3], C(1), args.pooled_width, -1, args.aligned, args.width);
  const bool readable = is_finite(roi[0]) && roi[0] >= C(0) && roi[0] < static_cast<C>(args.objects) &&
                        is_finite(roi[3]) && is_finite(roi[4]) && is_finite(axes.y.start) && is_finite(axes.y.bin) &&
                        is_finite(axes.x.start) && is_finite(axes.x.bin);
  axes.object = readable ? static_cast<int64_t>(roi[0]) : -1;
  return axes;
}

// The sum over the samples of y bin `ph`, in one column.
template <class C, class Source>
HOST_DEVICE C column_sum(const Source& source, const CropAxes<C>& axes, int ph, int column, const CropMasks& args) {
  C sum = C(0);
  int first = -64;
  uint64_t word = 0;
  for (int i = 0; i < axes.y.grid; ++i) {
    const Tap<C> tap = tap_at(sample_point(axes.y, ph, i), args.height);
    for (int side = 0; side < 2; ++side) {
      const C weight = side ? tap.high_weight : tap.low_weight;
      if (weight == C(0)) continue;
      const int row = side ? tap.high : tap.low;
      if (row >= first + 64 || row < first) {
        first = row;
        word = source.word(axes.object, column, first);
      }
      if (word >> (row - first) & 1) sum += weight;
    }
  }
  return sum;
}

// One number of the output. Samples are at most a cell apart, so a column is one of the last two, or new.
template <class C, class Source>
HOST_DEVICE C cropped(const Source& source, const CropAxes<C>& axes, int ph, int pw, const CropMasks& args) {
  C sum = C(0), even = C(0), odd = C(0);
  int even_column = -1, odd_column = -1;
  for (int i = 0; i < axes.x.grid; ++i) {
    const Tap<C> tap = tap_at(sample_point(axes.x, pw, i), args.width);
    for (int side = 0; side < 2; ++side) {
      const C weight = side ? tap.high_weight : tap.low_weight;
      if (weight == C(0)) continue;
      const int column = side ? tap.high : tap.low;
      int& held = column % 2 ? odd_column : even_column;
      C& in_column = column % 2 ? odd : even;
      if (held != column) {
        held = column;
        in_column = column_sum(source, axes, ph, column, args);
      }
      sum += weight * in_column;
    }
  }
  // Divided once, not weight by weight as in roi_align.h: on a GPU a division is a call.
  const int64_t samples = static_cast<int64_t>(axes.y.grid) * axes.x.grid;
  return samples > 0 ? sum / static_cast<C>(samples) : C(0);
}

// Kernels: rois [rois, 5], output [rois, pooled_height, pooled_width], contiguous, on one device. Nothing is empty.
template <class C, class Source>
void crop_masks_cpu(const Source& source, const C* rois, C* output, const CropMasks& args);
template <class C, class Source>
int crop_masks_cuda(const Source& source, const C* rois, C* output, const CropMasks& args, void* stream);

}  // namespace maskrcnn_ops
