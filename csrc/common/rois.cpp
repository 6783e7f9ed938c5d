#include "common/rois.h"

#include <cstdlib>
#include <cstring>

namespace maskrcnn_ops {

MapStrides strides_of(const Tensor& map) { return {map.stride(0), map.stride(1), map.stride(2), map.stride(3)}; }

Tensor as_rois(const char* op, const Tensor& features, const Tensor& rois) {
  check_floating(features, op, "input");
  check_floating(rois, op, "rois");
  check_same_device(features, rois, op, "input", "rois");
  CHECK_ARG(rois.dim() == 2 && rois.size(1) == 5, op, ": expected rois of shape [R, 5], got ", shape_of(rois));
  const ScalarType type = features.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  return as_contiguous(rois, type);
}

void check_pooled_size(const char* op, int64_t pooled_height, int64_t pooled_width) {
  constexpr int64_t most_bins = 4096;  // kernels count bins in 32 bits
  CHECK_ARG(pooled_height > 0 && pooled_width > 0 && pooled_height <= most_bins && pooled_width <= most_bins, op,
            ": expected output_size between (1, 1) and (4096, 4096), got (", pooled_height, ", ", pooled_width, ")");
}

Tensor check_pooling(const char* op, const Tensor& input, const Tensor& rois, int64_t pooled_height,
                     int64_t pooled_width) {
  CHECK_ARG(input.dim() == 4, op, ": expected input of shape [N, C, H, W], got ", shape_of(input));
  constexpr int64_t most_cells = 1 << 29;  // kernels count cells of an axis in 32 bits
  check_pooled_size(op, pooled_height, pooled_width);
  for (int64_t dim = 1; dim < 4; ++dim)
    CHECK_ARG(input.size(dim) < most_cells, op, ": expected input with C, H and W below 2^29, got ", shape_of(input));
  const Tensor converted = as_rois(op, input, rois);
  check_image_indices(op, converted, input.size(0));
  return converted;
}

void check_image_indices(const char* op, const Tensor& rois, int64_t images) {
  const char* wish = std::getenv("MASKRCNN_OPS_CHECK");
  if (!rois.is_cpu() && (wish == nullptr || std::strcmp(wish, "1") != 0)) return;
  const torch::stable::Device cpu(torch::headeronly::DeviceType::CPU);
  const Tensor local = rois.is_cpu() ? rois : torch::stable::to(rois, cpu);
  with_coordinate_type(local, [&](auto tag) {
    using C = decltype(tag);
    const C* data = pointer<C>(local);
    for (int64_t r = 0; r < local.size(0); ++r)
      CHECK_ARG(!is_finite(data[5 * r]) || (data[5 * r] >= 0 && data[5 * r] < static_cast<C>(images)), op,
                ": expected image indices rois[:, 0] in [0, ", images, "), got ", data[5 * r], " in row ", r);
  });
}

}  // namespace maskrcnn_ops
