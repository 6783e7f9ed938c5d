#pragma once

// The operators for C++ programs that use LibTorch. Linking maskrcnn_ops::maskrcnn_ops (find_package(maskrcnn_ops))
// registers them; these functions reach them through torch's dispatcher. The Python docstrings describe the arguments.
// Gradients: the library registers kernels only, so autograd is explicit here: call the _backward functions.

#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>

#include <tuple>

namespace maskrcnn_ops {

template <class Signature, class... Arguments>
auto call_operator(const char* name, Arguments&&... arguments) {
  const auto schema = c10::Dispatcher::singleton().findSchemaOrThrow(name, "");
  return schema.typed<Signature>().call(std::forward<Arguments>(arguments)...);
}

// input [N, C, H, W], rois [R, 5] (image index, x1, y1, x2, y2) -> [R, C, pooled_height, pooled_width]
inline at::Tensor roi_align(const at::Tensor& input, const at::Tensor& rois, double spatial_scale,
                            int64_t pooled_height, int64_t pooled_width, int64_t sampling_ratio, bool aligned) {
  using Signature = at::Tensor(const at::Tensor&, const at::Tensor&, double, c10::SymInt, c10::SymInt, int64_t, bool);
  return call_operator<Signature>("maskrcnn_ops::roi_align", input, rois, spatial_scale, pooled_height, pooled_width,
                                  sampling_ratio, aligned);
}

// grad_output as roi_align's output -> the gradient with respect to `input`, in its shape and layout
inline at::Tensor roi_align_backward(const at::Tensor& grad_output, const at::Tensor& rois, double spatial_scale,
                                     int64_t pooled_height, int64_t pooled_width, int64_t sampling_ratio, bool aligned,
                                     const at::Tensor& input) {
  using Signature = at::Tensor(const at::Tensor&, const at::Tensor&, double, c10::SymInt, c10::SymInt, int64_t, bool,
                               c10::SymInt, c10::SymInt, c10::SymInt, c10::SymInt, bool);
  const bool channels_last = !input.is_contiguous() && input.is_contiguous(at::MemoryFormat::ChannelsLast);
  return call_operator<Signature>("maskrcnn_ops::roi_align_backward", grad_output, rois, spatial_scale, pooled_height,
                                  pooled_width, sampling_ratio, aligned, input.size(0), input.size(1), input.size(2),
                                  input.size(3), channels_last);
}

}  // namespace maskrcnn_ops
