#pragma once

// Position-sensitive pooling (Dai et al., R-FCN, 2016): the map has a channel of its own for every bin. Bin (p, q) of
// output channel c averages input channel (c * pooled_height + p) * pooled_width + q and no other.
//
// Two operators, which differ in the cells of a bin only: ps_roi_align takes RoIAlign's samples (Li et al., Light-Head
// R-CNN, 2017), ps_roi_pool whole cells. Both are separable: bin (p, q) is the sum of y-weight * x-weight * cell,
// divided by a number of its own. Forward gathers with these weights and backward scatters with the same.

#include <cstdint>

#include "common/maps.h"
#include "common/scalar.h"
#include "roi_align/roi_align.h"
#include "roi_pool/roi_pool.h"

namespace maskrcnn_ops {

// Sizes and options of one call. `channels` counts those of the output; `sampling_ratio` is ps_roi_align's.
struct PsRoiPool {
  int64_t images, rois;
  int channels, height, width;
  int pooled_height, pooled_width, sampling_ratio;
  double spatial_scale;

  HOST_DEVICE int bins() const { return pooled_height * pooled_width; }
};

// One bin along one axis, as a list of taps: at most `taps()` cells with their weights, some of which may be zero.
// The sum over them is divided by `divisor()`.

// A bin of ps_roi_align: RoIAlign's samples, half a pixel to the upper left.
template <class A>
struct SampledBin {
  SampleAxis<A> axis;
  int p, extent;

  HOST_DEVICE int taps() const { return 2 * axis.grid; }
  HOST_DEVICE TapEntry<A> tap(int i) const {
    const Tap<A> tap = tap_at(sample_point(axis, p, i / 2), extent);
    const A weight = (i % 2 ? tap.high_weight : tap.low_weight) / static_cast<A>(axis.grid);
    return {i % 2 ? tap.high : tap.low, weight};
  }
  // The taps, equal cells merged and zeros left out; returns their number.
  HOST_DEVICE int merged_taps(TapEntry<A>* entries) const { return bin_taps(axis, p, extent, entries); }
  HOST_DEVICE A weight_of(int cell) const { return cell_weight(axis, p, extent, cell); }
  HOST_DEVICE A divisor() const { return A(1); }  // the weights hold it
  // Whether the bin may read one of the cells. Never wrongly false: a sample reads cells less than one from it, or the
  // border cell if it lies outside by at most one.
  HOST_DEVICE bool may_meet(int first, int size) const {
    const A start = axis.start + static_cast<A>(p) * axis.bin, end = start + axis.bin;
    const A low = start < end ? start : end, high = start < end ? end : start;
    return high >= static_cast<A>(first - 2) && low <= static_cast<A>(first + size + 1);
  }
};

// A bin of ps_roi_pool: the cells of a rounded bin, each of weight one.
template <class A>
struct WholeBin {
  CellRange cells;

  HOST_DEVICE int taps() const { return cells.last - cells.first; }
  HOST_DEVICE TapEntry<A> tap(int i) const { return {cells.first + i, A(1)}; }
  HOST_DEVICE int merged_taps(TapEntry<A>* entries) const {
    for (int i = 0; i < taps(); ++i) entries[i] = tap(i);
    return taps();
  }
  HOST_DEVICE A weight_of(int cell) const { return cell >= cells.first && cell < cells.last ? A(1) : A(0); }
  HOST_DEVICE A divisor() const { return static_cast<A>(taps() > 0 ? taps() : 1); }
  HOST_DEVICE bool may_meet(int first, int size) const { return cells.first < first + size && cells.last > first; }
};

// A RoI along one axis of `extent` cells, whose bins are the operator's.
template <class A>
struct SampledBins {
  SampleAxis<A> axis;
  int extent;

  HOST_DEVICE SampledBins(A low, A high, int pooled, int extent, const PsRoiPool& args)
      : axis(sample_axis(low, high, static_cast<A>(args.spatial_scale), pooled, args.sampling_ratio, true, extent)),
        extent(extent) {}
  HOST_DEVICE bool readable() const { return is_finite(axis.bin); }
  HOST_DEVICE SampledBin<A> operator[](int p) const { return {axis, p, extent}; }
};

// Other than RoIPool's: the end's cell is left out, and the ends of bins are limited to the map's last cell, which
// therefore is never read. That is how torchvision pools, and weights trained with it expect it.
template <class A>
struct WholeBins {
  BinAxis<A> axis;
  int extent;

  HOST_DEVICE WholeBins(A low, A high, int pooled, int extent, const PsRoiPool& args)
      : axis(bin_axis(low, high, static_cast<A>(args.spatial_scale), pooled, false)), extent(extent) {}
  HOST_DEVICE bool readable() const { return true; }
  HOST_DEVICE WholeBin<A> operator[](int p) const { return {bin_cells(axis, p, extent - 1)}; }
};

// The two axes of a RoI (image index, x1, y1, x2, y2), and its image; -1 where the RoI reads nothing because the
// index lies outside the batch or a number is not finite.
template <template <class> class Bins, class A>
struct PsRoi {
  int64_t image;
  Bins<A> y, x;

  HOST_DEVICE PsRoi(const A* roi, const PsRoiPool& args)
      : image(is_readable(roi, args) ? image_of(roi[0], args.images) : -1),
        y(image < 0 ? A(0) : roi[2], image < 0 ? A(0) : roi[4], args.pooled_height, args.height, args),
        x(image < 0 ? A(0) : roi[1], image < 0 ? A(0) : roi[3], args.pooled_width, args.width, args) {
    if (!y.readable() || !x.readable()) image = -1;
  }

 private:
  static HOST_DEVICE bool is_readable(const A* roi, const PsRoiPool& args) {
    bool readable = true;
    for (int i = 1; i < 5; ++i) readable = readable && is_finite(roi[i] * static_cast<A>(args.spatial_scale));
    return readable;
  }
};

// The part of grad_input that one CUDA block owns: a tile of cells of one image, for one bin and some output channels.
// Blocks are numbered with the column tile fastest, then row tile, channel chunk, bin, image.
struct PsTile {
  static constexpr int rows = PoolTile::rows, columns = PoolTile::columns, channels = PoolTile::channels;
  int64_t image;
  int ph, pw, first_channel, first_row, first_column;

  // RoIPool's tiles, of maps with as many images as there are bins in all.
  static HOST_DEVICE RoiPool plain(const PsRoiPool& args) {
    return {args.images * args.bins(), args.rois, args.channels, args.height, args.width, 1, 1, 1.0};
  }
  static HOST_DEVICE int64_t count(const PsRoiPool& args) { return PoolTile::count(plain(args)); }
  HOST_DEVICE PsTile(int64_t block, const PsRoiPool& args) {
    const PoolTile tile(block, plain(args));
    const int bin = static_cast<int>(tile.image % args.bins());
    image = tile.image / args.bins();
    ph = bin / args.pooled_width;
    pw = bin % args.pooled_width;
    first_channel = tile.first_channel;
    first_row = tile.first_row;
    first_column = tile.first_column;
  }

  template <template <class> class Bins, class A>
  HOST_DEVICE bool may_meet(const PsRoi<Bins, A>& roi) const {
    return roi.image == image && roi.y[ph].may_meet(first_row, rows) && roi.x[pw].may_meet(first_column, columns);
  }
};

// Kernels, of ps_roi_align with Bins = SampledBins and of ps_roi_pool with WholeBins. All pointers lie on one device;
// `rois` is [rois, 5] in the type the kernel accumulates in. `input` and `grad_input` are
// [images, channels * pooled_height * pooled_width, height, width], `output` and `grad_output`
// [rois, channels, pooled_height, pooled_width], with any strides but grad_input, which is contiguous or channels_last.
template <template <class> class Bins, class T>
void ps_roi_pool_cpu(const T* input, MapStrides input_strides, const Acc<T>* rois, T* output, MapStrides output_strides,
                     const PsRoiPool& args);
template <template <class> class Bins, class T>
void ps_roi_pool_backward_cpu(const T* grad_output, MapStrides grad_strides, const Acc<T>* rois, T* grad_input,
                              MapStrides input_strides, const PsRoiPool& args);
template <template <class> class Bins, class T>
int ps_roi_pool_cuda(const T* input, MapStrides input_strides, const Acc<T>* rois, T* output, MapStrides output_strides,
                     const PsRoiPool& args, void* stream);
template <template <class> class Bins, class T>
int ps_roi_pool_backward_cuda(const T* grad_output, MapStrides grad_strides, const Acc<T>* rois, T* grad_input,
                              MapStrides input_strides, const PsRoiPool& args, void* stream);

}  // namespace maskrcnn_ops
