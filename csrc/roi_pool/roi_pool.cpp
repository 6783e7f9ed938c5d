#include "roi_pool/roi_pool.h"

#include <tuple>

#include "common/cuda.h"
#include "common/rois.h"

namespace maskrcnn_ops {
namespace {

RoiPool options(const char* op, int64_t images, int64_t channels, int64_t height, int64_t width, int64_t rois,
                int64_t pooled_height, int64_t pooled_width, double spatial_scale) {
  CHECK_ARG(height * width <= INT32_MAX, op, ": expected input with H * W below 2^31 (positions are int32), got ",
            height, " * ", width);
  auto narrow = [](int64_t value) { return static_cast<int>(value); };
  return {
      images,       rois, narrow(channels), narrow(height), narrow(width), narrow(pooled_height), narrow(pooled_width),
      spatial_scale};
}

Tensor empty_positions(const Tensor& like, bool channels_last) {
  return empty_map(like, sizes_of(like), channels_last, ScalarType::Int);
}

std::tuple<Tensor, Tensor> roi_pool(const Tensor& input, const Tensor& rois, double spatial_scale,
                                    int64_t pooled_height, int64_t pooled_width) {
  const char* op = "roi_pool";
  const Tensor boxes = check_pooling(op, input, rois, pooled_height, pooled_width);
  const RoiPool args = options(op, input.size(0), input.size(1), input.size(2), input.size(3), boxes.size(0),
                               pooled_height, pooled_width, spatial_scale);
  const bool channels_last = is_channels_last(input);
  Tensor output = empty_map(input, {boxes.size(0), input.size(1), pooled_height, pooled_width}, channels_last);
  Tensor argmax = empty_positions(output, channels_last);
  if (output.numel() == 0) return {output, argmax};
  if (input.numel() == 0) return {torch::stable::zero_(output), torch::stable::fill_(argmax, -1)};
  with_element_type(input, [&](auto element) {
    using T = decltype(element);
    if (on_cuda(input))
      LAUNCH_CUDA(op, input, roi_pool_cuda<T>, pointer<T>(input), strides_of(input), pointer<Acc<T>>(boxes),
                  mutable_pointer<T>(output), mutable_pointer<int32_t>(argmax), strides_of(output), args);
    else
      roi_pool_cpu(pointer<T>(input), strides_of(input), pointer<Acc<T>>(boxes), mutable_pointer<T>(output),
                   mutable_pointer<int32_t>(argmax), strides_of(output), args);
  });
  return {output, argmax};
}

Tensor roi_pool_backward(const Tensor& grad_output, const Tensor& argmax, const Tensor& rois, double spatial_scale,
                         int64_t pooled_height, int64_t pooled_width, int64_t images, int64_t channels, int64_t height,
                         int64_t width, bool channels_last) {
  const char* op = "roi_pool_backward";
  const Tensor boxes = as_rois(op, grad_output, rois);
  CHECK_ARG(grad_output.dim() == 4 && grad_output.size(0) == boxes.size(0) && grad_output.size(1) == channels &&
                grad_output.size(2) == pooled_height && grad_output.size(3) == pooled_width,
            op, ": expected grad_output of shape [", boxes.size(0), ", ", channels, ", ", pooled_height, ", ",
            pooled_width, "], got ", shape_of(grad_output));
  CHECK_ARG(shape_of(argmax) == shape_of(grad_output) && argmax.scalar_type() == ScalarType::Int, op,
            ": expected argmax of dtype int32 and shape ", shape_of(grad_output), ", got ", type_of(argmax), " and ",
            shape_of(argmax));
  check_same_device(grad_output, argmax, op, "grad_output", "argmax");
  check_image_indices(op, boxes, images);
  const RoiPool args =
      options(op, images, channels, height, width, boxes.size(0), pooled_height, pooled_width, spatial_scale);
  Tensor grad_input = empty_map(grad_output, {images, channels, height, width}, channels_last);
  if (grad_input.numel() == 0) return grad_input;
  if (grad_output.numel() == 0) return torch::stable::zero_(grad_input);
  const Tensor grad = as_dense(grad_output), positions = as_dense(argmax);
  with_element_type(grad, [&](auto element) {
    using T = decltype(element);
    if (on_cuda(grad))
      LAUNCH_CUDA(op, grad, roi_pool_backward_cuda<T>, pointer<T>(grad), strides_of(grad), pointer<int32_t>(positions),
                  strides_of(positions), pointer<Acc<T>>(boxes), mutable_pointer<T>(grad_input), strides_of(grad_input),
                  args);
    else
      roi_pool_backward_cpu(pointer<T>(grad), strides_of(grad), pointer<int32_t>(positions), strides_of(positions),
                            pointer<Acc<T>>(boxes), mutable_pointer<T>(grad_input), strides_of(grad_input), args);
  });
  return grad_input;
}

void register_kernels(torch::stable::detail::StableLibrary& m) {
  m.impl("roi_pool", TORCH_BOX(&roi_pool));
  m.impl("roi_pool_backward", TORCH_BOX(&roi_pool_backward));
}

}  // namespace
}  // namespace maskrcnn_ops

STABLE_TORCH_LIBRARY_IMPL(maskrcnn_ops, CPU, m) { maskrcnn_ops::register_kernels(m); }
STABLE_TORCH_LIBRARY_IMPL(maskrcnn_ops, CUDA, m) { maskrcnn_ops::register_kernels(m); }
