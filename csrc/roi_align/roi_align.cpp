#include "roi_align/roi_align.h"

#include "common/cuda.h"
#include "common/rois.h"

namespace maskrcnn_ops {
namespace {

Tensor roi_align(const Tensor& input, const Tensor& rois, double spatial_scale, int64_t pooled_height,
                 int64_t pooled_width, int64_t sampling_ratio, bool aligned) {
  const Tensor boxes = check_pooling("roi_align", input, rois, pooled_height, pooled_width);
  const RoiAlign args{input.size(0), input.size(1), input.size(2),  input.size(3), boxes.size(0), pooled_height,
                      pooled_width,  sampling_ratio, spatial_scale, aligned};
  Tensor output =
      empty_map(input, args.rois, args.channels, pooled_height, pooled_width, is_channels_last(input));
  if (output.numel() == 0) return output;
  if (input.numel() == 0) return torch::stable::zero_(output);
  with_element_type(input, [&](auto element) {
    with_coordinate_type(boxes, [&](auto coordinate) {
      using T = decltype(element);
      using C = decltype(coordinate);
      if (input.is_cuda())
        LAUNCH_CUDA("roi_align", input, (roi_align_cuda<T, C>), pointer<T>(input), strides_of(input),
                    pointer<C>(boxes), mutable_pointer<T>(output), strides_of(output), args);
      else
        roi_align_cpu(pointer<T>(input), strides_of(input), pointer<C>(boxes), mutable_pointer<T>(output),
                      strides_of(output), args);
    });
  });
  return output;
}

Tensor roi_align_backward(const Tensor& grad_output, const Tensor& rois, double spatial_scale, int64_t pooled_height,
                          int64_t pooled_width, int64_t sampling_ratio, bool aligned, int64_t images,
                          int64_t channels, int64_t height, int64_t width, bool channels_last) {
  const char* op = "roi_align_backward";
  const Tensor grad = is_channels_last(grad_output) ? grad_output : torch::stable::contiguous(grad_output);
  Tensor grad_input = empty_map(grad, images, channels, height, width, channels_last);
  const Tensor boxes = as_coordinates(rois, op, "rois");
  check_same_device(grad, boxes, op, "grad_output", "rois");
  CHECK_ARG(grad.dim() == 4 && grad.size(0) == boxes.size(0) && grad.size(1) == channels &&
                grad.size(2) == pooled_height && grad.size(3) == pooled_width,
            op, ": expected grad_output of shape [", boxes.size(0), ", ", channels, ", ", pooled_height, ", ",
            pooled_width, "], got ", shape_of(grad));
  if (grad.is_cpu()) check_image_indices(op, boxes, images);
  if (grad_input.numel() == 0) return grad_input;
  if (grad.numel() == 0) return torch::stable::zero_(grad_input);
  const RoiAlign args{images, channels, height, width, boxes.size(0), pooled_height, pooled_width, sampling_ratio,
                      spatial_scale, aligned};
  with_element_type(grad, [&](auto element) {
    with_coordinate_type(boxes, [&](auto coordinate) {
      using T = decltype(element);
      using C = decltype(coordinate);
      if (grad.is_cuda())
        LAUNCH_CUDA(op, grad, (roi_align_backward_cuda<T, C>), pointer<T>(grad), strides_of(grad), pointer<C>(boxes),
                    mutable_pointer<T>(grad_input), strides_of(grad_input), args);
      else
        roi_align_backward_cpu(pointer<T>(grad), strides_of(grad), pointer<C>(boxes), mutable_pointer<T>(grad_input),
                               strides_of(grad_input), args);
    });
  });
  return grad_input;
}

void register_kernels(torch::stable::detail::StableLibrary& m) {
  m.impl("roi_align", TORCH_BOX(&roi_align));
  m.impl("roi_align_backward", TORCH_BOX(&roi_align_backward));
}

}  // namespace
}  // namespace maskrcnn_ops

STABLE_TORCH_LIBRARY_IMPL(maskrcnn_ops, CPU, m) { maskrcnn_ops::register_kernels(m); }
STABLE_TORCH_LIBRARY_IMPL(maskrcnn_ops, CUDA, m) { maskrcnn_ops::register_kernels(m); }
