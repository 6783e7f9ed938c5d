#include "crop_masks/crop_masks.h"

#include "common/cuda.h"
#include "common/rois.h"
#include "common/tensors.h"

namespace maskrcnn_ops {
namespace {

constexpr int64_t most_bins = 4096, most_pixels = 1 << 29;  // cells and bins of an axis are counted in 32 bits

void check_sizes(const char* op, int64_t height, int64_t width, int64_t pooled_height, int64_t pooled_width) {
  CHECK_ARG(pooled_height > 0 && pooled_width > 0 && pooled_height <= most_bins && pooled_width <= most_bins, op,
            ": expected size between (1, 1) and (4096, 4096), got (", pooled_height, ", ", pooled_width, ")");
  CHECK_ARG(height >= 0 && width >= 0 && height < most_pixels && width < most_pixels, op,
            ": expected the image's height and width from 0 to below 2^29, got (", height, ", ", width, ")");
}

Tensor check_longs(const char* op, const Tensor& tensor, const char* argument, const Tensor& rois) {
  CHECK_ARG(tensor.dim() == 1 && tensor.scalar_type() == ScalarType::Long, op, ": expected ", argument,
            " of dtype int64 and one dimension, got ", type_of(tensor), " ", shape_of(tensor));
  check_same_device(tensor, rois, op, argument, "rois");
  return as_contiguous(tensor);
}

// Offsets count from 0 to `total` without decreasing. Read on the CPU only: on CUDA the caller vouches for them.
void check_offsets(const char* op, const Tensor& offsets, const char* argument, int64_t total) {
  CHECK_ARG(offsets.numel() > 0, op, ": expected ", argument, " with one entry more than it counts, got none");
  if (!offsets.is_cpu()) return;
  const auto* data = pointer<int64_t>(offsets);
  const int64_t n = offsets.numel();
  bool good = data[0] == 0 && data[n - 1] == total;
  for (int64_t i = 1; i < n; ++i) good = good && data[i - 1] <= data[i];
  CHECK_ARG(good, op, ": expected ", argument, " to rise from 0 to ", total);
}

template <class Source>
Tensor crop(const char* op, const Source& source, const Tensor& rois, int64_t objects, int64_t pooled_height,
            int64_t pooled_width, bool aligned) {
  CHECK_ARG(rois.dim() == 2 && rois.size(1) == 5, op, ": expected rois of shape [R, 5], got ", shape_of(rois));
  const Tensor regions = as_coordinates(rois, op, "rois");
  check_image_indices(op, regions, objects);
  Tensor output = empty(regions, {regions.size(0), pooled_height, pooled_width});
  if (output.numel() == 0) return output;
  if (objects == 0 || source.height == 0 || source.width == 0) return torch::stable::zero_(output);
  const CropMasks args{objects,
                       regions.size(0),
                       source.height,
                       source.width,
                       static_cast<int>(pooled_height),
                       static_cast<int>(pooled_width),
                       aligned};
  with_coordinate_type(regions, [&](auto coordinate) {
    using C = decltype(coordinate);
    if (on_cuda(regions))
      LAUNCH_CUDA(op, regions, (crop_masks_cuda<C, Source>), source, pointer<C>(regions), mutable_pointer<C>(output),
                  args);
    else crop_masks_cpu(source, pointer<C>(regions), mutable_pointer<C>(output), args);
  });
  return output;
}

Tensor crop_masks(const Tensor& masks, const Tensor& rois, int64_t pooled_height, int64_t pooled_width, bool aligned) {
  const char* op = "crop_masks";
  CHECK_ARG(masks.dim() == 3, op, ": expected masks of shape [L, H, W], got ", shape_of(masks));
  CHECK_ARG(masks.scalar_type() == ScalarType::Byte || masks.scalar_type() == ScalarType::Bool, op,
            ": expected masks of dtype uint8 or bool, got ", type_of(masks));
  check_sizes(op, masks.size(1), masks.size(2), pooled_height, pooled_width);
  check_same_device(masks, rois, op, "masks", "rois");
  const Tensor pixels = as_contiguous(masks);
  const Bitmaps source{static_cast<const uint8_t*>(pixels.const_data_ptr()), static_cast<int>(masks.size(1)),
                       static_cast<int>(masks.size(2))};
  return crop(op, source, rois, masks.size(0), pooled_height, pooled_width, aligned);
}

Tensor crop_runs(const Tensor& ends, const Tensor& offsets, int64_t height, int64_t width, const Tensor& rois,
                 int64_t pooled_height, int64_t pooled_width, bool aligned) {
  const char* op = "crop_masks";
  check_sizes(op, height, width, pooled_height, pooled_width);
  const Tensor run_ends = check_longs(op, ends, "ends", rois), starts = check_longs(op, offsets, "offsets", rois);
  check_offsets(op, starts, "offsets", ends.numel());
  const Runs source{pointer<int64_t>(run_ends), pointer<int64_t>(starts), ends.numel(), static_cast<int>(height),
                    static_cast<int>(width)};
  return crop(op, source, rois, offsets.numel() - 1, pooled_height, pooled_width, aligned);
}

Tensor rasterize_polygons(const Tensor& points, const Tensor& rings, const Tensor& objects, int64_t height,
                          int64_t width, const Tensor& rois, int64_t pooled_height, int64_t pooled_width,
                          bool aligned) {
  const char* op = "rasterize_polygons";
  check_sizes(op, height, width, pooled_height, pooled_width);
  CHECK_ARG(points.dim() == 2 && points.size(1) == 2 && points.scalar_type() == ScalarType::Double, op,
            ": expected points of dtype float64 and shape [P, 2], got ", type_of(points), " ", shape_of(points));
  check_same_device(points, rois, op, "points", "rois");
  const Tensor corners = as_contiguous(points);
  const Tensor ring_starts = check_longs(op, rings, "rings", rois), starts = check_longs(op, objects, "objects", rois);
  check_offsets(op, ring_starts, "rings", points.size(0));
  check_offsets(op, starts, "objects", rings.numel() - 1);
  const Polygons source{pointer<double>(corners), pointer<int64_t>(ring_starts), pointer<int64_t>(starts),
                        static_cast<int>(height), static_cast<int>(width)};
  return crop(op, source, rois, objects.numel() - 1, pooled_height, pooled_width, aligned);
}

void register_kernels(torch::stable::detail::StableLibrary& m) {
  m.impl("crop_masks", TORCH_BOX(&crop_masks));
  m.impl("crop_runs", TORCH_BOX(&crop_runs));
  m.impl("rasterize_polygons", TORCH_BOX(&rasterize_polygons));
}

}  // namespace
}  // namespace maskrcnn_ops

STABLE_TORCH_LIBRARY_IMPL(maskrcnn_ops, CPU, m) { maskrcnn_ops::register_kernels(m); }
STABLE_TORCH_LIBRARY_IMPL(maskrcnn_ops, CUDA, m) { maskrcnn_ops::register_kernels(m); }
