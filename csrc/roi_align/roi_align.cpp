#include "roi_align/roi_align.h"

#include "common/cuda.h"
#include "common/rois.h"

namespace maskrcnn_ops {
namespace {

RoiAlign options(const char* op, int64_t images, int64_t channels, int64_t height, int64_t width, int64_t rois,
                 int64_t pooled_height, int64_t pooled_width, int64_t sampling_ratio, double spatial_scale,
                 bool aligned) {
  CHECK_ARG(sampling_ratio <= 65536, op, ": expected sampling_ratio of at most 65536, got ", sampling_ratio);
  auto narrow = [](int64_t value) { return static_cast<int>(value); };
  return {images,
          rois,
          narrow(channels),
          narrow(height),
          narrow(width),
          narrow(pooled_height),
          narrow(pooled_width),
          static_cast<int>(sampling_ratio > 0 ? sampling_ratio : 0),
          spatial_scale,
          aligned};
}

Tensor roi_align(const Tensor& input, const Tensor& rois, double spatial_scale, int64_t pooled_height,
                 int64_t pooled_width, int64_t sampling_ratio, bool aligned) {
  const char* op = "roi_align";
  const Tensor boxes = check_pooling(op, input, rois, pooled_height, pooled_width);
  const RoiAlign args = options(op, input.size(0), input.size(1), input.size(2), input.size(3), boxes.size(0),
                                pooled_height, pooled_width, sampling_ratio, spatial_scale, aligned);
  Tensor output = empty_map(input, boxes.size(0), input.size(1), pooled_height, pooled_width, is_channels_last(input));
  if (output.numel() == 0) return output;
  if (input.numel() == 0) return torch::stable::zero_(output);
  with_element_type(input, [&](auto element) {
    using T = decltype(element);
    if (input.is_cuda())
      LAUNCH_CUDA(op, input, roi_align_cuda<T>, pointer<T>(input), strides_of(input), pointer<Acc<T>>(boxes),
                  mutable_pointer<T>(output), strides_of(output), args);
    else
      roi_align_cpu(pointer<T>(input), strides_of(input), pointer<Acc<T>>(boxes), mutable_pointer<T>(output),
                    strides_of(output), args);
  });
  return output;
}

Tensor roi_align_backward(const Tensor& grad_output, const Tensor& rois, double spatial_scale, int64_t pooled_height,
                          int64_t pooled_width, int64_t sampling_ratio, bool aligned, int64_t images, int64_t channels,
                          int64_t height, int64_t width, bool channels_last) {
  const char* op = "roi_align_backward";
  const Tensor boxes = as_rois(op, grad_output, rois);
  CHECK_ARG(grad_output.dim() == 4 && grad_output.size(0) == boxes.size(0) && grad_output.size(1) == channels &&
                grad_output.size(2) == pooled_height && grad_output.size(3) == pooled_width,
            op, ": expected grad_output of shape [", boxes.size(0), ", ", channels, ", ", pooled_height, ", ",
            pooled_width, "], got ", shape_of(grad_output));
  check_image_indices(op, boxes, images);
  const Tensor grad = is_channels_last(grad_output) ? grad_output : torch::stable::contiguous(grad_output);
  Tensor grad_input = empty_map(grad, images, channels, height, width, channels_last);
  if (grad_input.numel() == 0) return grad_input;
  if (grad.numel() == 0) return torch::stable::zero_(grad_input);
  const RoiAlign args = options(op, images, channels, height, width, boxes.size(0), pooled_height, pooled_width,
                                sampling_ratio, spatial_scale, aligned);
  with_element_type(grad, [&](auto element) {
    using T = decltype(element);
    if (grad.is_cuda())
      LAUNCH_CUDA(op, grad, roi_align_backward_cuda<T>, pointer<T>(grad), strides_of(grad), pointer<Acc<T>>(boxes),
                  mutable_pointer<T>(grad_input), strides_of(grad_input), args);
    else
      roi_align_backward_cpu(pointer<T>(grad), strides_of(grad), pointer<Acc<T>>(boxes), mutable_pointer<T>(grad_input),
                             strides_of(grad_input), args);
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
