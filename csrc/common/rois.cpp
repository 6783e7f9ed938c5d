#include "common/rois.h"

#include <cstdlib>
#include <cstring>

namespace maskrcnn_ops {

MapStrides strides_of(const Tensor& map) { return {map.stride(0), map.stride(1), map.stride(2), map.stride(3)}; }

Tensor check_pooling(const char* op, const Tensor& input, const Tensor& rois, int64_t pooled_height,
                     int64_t pooled_width) {
  CHECK_ARG(input.dim() == 4, op, ": expected input of shape [N, C, H, W], got ", shape_of(input));
  CHECK_ARG(rois.dim() == 2 && rois.size(1) == 5, op, ": expected rois of shape [R, 5], got ", shape_of(rois));
  CHECK_ARG(pooled_height > 0 && pooled_width > 0, op, ": expected output_size of at least (1, 1), got (",
            pooled_height, ", ", pooled_width, ")");
  check_floating(input, op, "input");
  check_same_device(input, rois, op, "input", "rois");
  const Tensor coordinates = as_coordinates(rois, op, "rois");
  // Without this variable nothing is read back from a GPU: there a RoI with a bad index gives zeros.
  const char* wish = std::getenv("MASKRCNN_OPS_CHECK");
  if (input.is_cpu() || (wish != nullptr && std::strcmp(wish, "1") == 0))
    check_image_indices(op, coordinates, input.size(0));
  return coordinates;
}

void check_image_indices(const char* op, const Tensor& rois, int64_t images) {
  const Tensor local = rois.is_cpu() ? rois : torch::stable::to(rois, torch::stable::Device(torch::headeronly::DeviceType::CPU));
  with_coordinate_type(local, [&](auto tag) {
    using C = decltype(tag);
    const C* data = pointer<C>(local);
    for (int64_t r = 0; r < local.size(0); ++r)
      CHECK_ARG(data[5 * r] >= 0 && data[5 * r] < static_cast<C>(images), op,
                ": expected image indices rois[:, 0] in [0, ", images, "), got ", data[5 * r], " in row ", r);
  });
}

}  // namespace maskrcnn_ops
