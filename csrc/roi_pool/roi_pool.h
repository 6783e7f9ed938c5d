#pragma once

// RoIPool (Girshick, Fast R-CNN, 2015): the RoI rounded to cells, its bins rounded to cells, the maximum of each bin.
//
// Rounding is half away from zero. Bins are rounded outwards (floor of the start, ceil of the end), so neighbours
// overlap where the bin size is no whole number. The maximum is found in row-major order by `value > best`, beginning
// with the lowest finite number: of equal cells the first counts, and a NaN never does. A bin of nothing but NaN or
// -inf gives that lowest number and position -1; a bin without cells gives 0 and -1.

#include <cfloat>
#include <cmath>
#include <cstdint>
#include <type_traits>

#include "common/maps.h"
#include "common/scalar.h"

namespace maskrcnn_ops {

// Sizes and options of one call.
struct RoiPool {
  int64_t images, rois;
  int channels, height, width;
  int pooled_height, pooled_width;
  double spatial_scale;
};

// What a bin's maximum begins with.
template <class A>
HOST_DEVICE constexpr A lowest() {
  return std::is_same_v<A, double> ? static_cast<A>(-DBL_MAX) : static_cast<A>(-FLT_MAX);
}

// A RoI in cells along one axis: bin p covers the cells from floor(p * bin) to ceil((p + 1) * bin) after `start`.
template <class A>
struct BinAxis {
  int64_t start;
  A bin;
};

// Cells first ... last - 1 of the map. Empty where last <= first.
struct CellRange {
  int first, last;
};

// The nearest integer, halves away from zero, limited to +-2^30: outside any map, and far from overflow.
template <class A>
HOST_DEVICE int64_t nearest_cell(A x) {
  constexpr A far = static_cast<A>(1 << 30);
  x = std::round(x);
  return static_cast<int64_t>(x < -far ? -far : x > far ? far : x);
}

// `closed`: the cell of the end belongs to the RoI.
template <class A>
HOST_DEVICE BinAxis<A> bin_axis(A low, A high, A scale, int pooled, bool closed = true) {
  const int64_t start = nearest_cell(low * scale), end = nearest_cell(high * scale) + (closed ? 1 : 0);
  const int64_t side = end - start > 1 ? end - start : 1;
  return {start, static_cast<A>(side) / static_cast<A>(pooled)};
}

template <class A>
HOST_DEVICE CellRange bin_cells(const BinAxis<A>& axis, int p, int extent) {
  const int64_t first = axis.start + static_cast<int64_t>(std::floor(static_cast<A>(p) * axis.bin));
  const int64_t last = axis.start + static_cast<int64_t>(std::ceil(static_cast<A>(p + 1) * axis.bin));
  auto inside = [extent](int64_t cell) { return static_cast<int>(cell < 0 ? 0 : cell > extent ? extent : cell); };
  return {inside(first), inside(last)};
}

// The two axes of a RoI (image index, x1, y1, x2, y2), and its image; -1 where the RoI reads nothing because the
// index lies outside the batch or a number is not finite.
template <class A>
struct RoiBins {
  int64_t image;
  BinAxis<A> y, x;
};

template <class A>
HOST_DEVICE RoiBins<A> roi_bins(const A* roi, const RoiPool& args) {
  const A scale = static_cast<A>(args.spatial_scale);
  const int64_t image = image_of(roi[0], args.images);
  bool readable = image >= 0;
  for (int i = 1; i < 5; ++i) readable = readable && is_finite(roi[i] * scale);
  if (!readable) return {-1, {0, A(0)}, {0, A(0)}};
  return {image, bin_axis(roi[2], roi[4], scale, args.pooled_height),
          bin_axis(roi[1], roi[3], scale, args.pooled_width)};
}

// Bins first ... last - 1 of one axis contain the cell: the transpose of `bin_cells`.
template <class A>
HOST_DEVICE CellRange bins_of_cell(const BinAxis<A>& axis, int pooled, int extent, int cell) {
  // The bin in which the cell begins, give or take rounding; then walk to the exact ends.
  const A guess = static_cast<A>(cell - axis.start) / axis.bin;
  int first = guess > A(0) ? guess < static_cast<A>(pooled) ? static_cast<int>(guess) : pooled - 1 : 0;
  while (first > 0 && bin_cells(axis, first - 1, extent).last > cell) --first;
  while (first < pooled && bin_cells(axis, first, extent).last <= cell) ++first;
  int last = first;
  while (last < pooled && bin_cells(axis, last, extent).first <= cell) ++last;
  return {first, last};
}

// The part of grad_input that one CUDA block owns: a tile of cells of one image, for some channels. Blocks are numbered
// with the column tile fastest, then row tile, channel chunk, image.
struct PoolTile {
  static constexpr int rows = 8, columns = 32, channels = 8;
  int64_t image;
  int first_channel, first_row, first_column;

  static HOST_DEVICE int64_t parts(int whole, int part) { return (static_cast<int64_t>(whole) + part - 1) / part; }
  static HOST_DEVICE int64_t count(const RoiPool& args) {
    return args.images * parts(args.channels, channels) * parts(args.height, rows) * parts(args.width, columns);
  }
  HOST_DEVICE PoolTile(int64_t block, const RoiPool& args) {
    const int64_t across = parts(args.width, columns), down = parts(args.height, rows);
    const int64_t chunks = parts(args.channels, channels);
    first_column = static_cast<int>(block % across) * columns;
    block /= across;
    first_row = static_cast<int>(block % down) * rows;
    block /= down;
    first_channel = static_cast<int>(block % chunks) * channels;
    image = block / chunks;
  }

  // Whether a bin of the RoI contains a cell of the tile.
  template <class A>
  HOST_DEVICE bool touches(const RoiBins<A>& roi, const RoiPool& args) const {
    return roi.image == image && meets(roi.y, args.pooled_height, args.height, first_row, rows) &&
           meets(roi.x, args.pooled_width, args.width, first_column, columns);
  }

 private:
  template <class A>
  static HOST_DEVICE bool meets(const BinAxis<A>& axis, int pooled, int extent, int first, int size) {
    const int low = bin_cells(axis, 0, extent).first, high = bin_cells(axis, pooled - 1, extent).last;
    return low < high && low < first + size && high > first;
  }
};

// Kernels. All pointers lie on one device; `rois` is [rois, 5]: image index, x1, y1, x2, y2, in the type the kernel
// accumulates in. `output`, `argmax` and `grad_output` are [rois, channels, pooled_height, pooled_width], contiguous or
// channels_last, output and argmax alike; `input` and `grad_input` are [images, channels, height, width], grad_input
// contiguous or channels_last. `argmax` is the position row * width + column of the maximum in its plane, or -1; a
// position outside the plane gets no gradient.
template <class T>
void roi_pool_cpu(const T* input, MapStrides input_strides, const Acc<T>* rois, T* output, int32_t* argmax,
                  MapStrides output_strides, const RoiPool& args);
template <class T>
void roi_pool_backward_cpu(const T* grad_output, MapStrides grad_strides, const int32_t* argmax,
                           MapStrides argmax_strides, const Acc<T>* rois, T* grad_input, MapStrides input_strides,
                           const RoiPool& args);
template <class T>
int roi_pool_cuda(const T* input, MapStrides input_strides, const Acc<T>* rois, T* output, int32_t* argmax,
                  MapStrides output_strides, const RoiPool& args, void* stream);
template <class T>
int roi_pool_backward_cuda(const T* grad_output, MapStrides grad_strides, const int32_t* argmax,
                           MapStrides argmax_strides, const Acc<T>* rois, T* grad_input, MapStrides input_strides,
                           const RoiPool& args, void* stream);

}  // namespace maskrcnn_ops
