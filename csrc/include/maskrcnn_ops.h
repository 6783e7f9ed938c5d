#pragma once

// The operators for C++ programs that use LibTorch. Linking maskrcnn_ops::maskrcnn_ops (find_package(maskrcnn_ops))
// registers them; these functions reach them through torch's dispatcher. The Python docstrings describe the arguments.
// Gradients: the library registers kernels only, so autograd is explicit here: call the _backward functions.

#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>

#include <array>
#include <optional>
#include <tuple>
#include <vector>

namespace maskrcnn_ops {

template <class Signature, class... Arguments>
auto call_operator(const char* name, Arguments&&... arguments) {
  const auto schema = c10::Dispatcher::singleton().findSchemaOrThrow(name, "");
  return schema.typed<Signature>().call(std::forward<Arguments>(arguments)...);
}

// The rule that chooses among one level (maskrcnn_ops/roi_align.py, SINGLE_LEVEL).
constexpr double single_level[6] = {1, 0, 0, 0, 0, 0};

// input [N, C, H, W], rois [R, 5] (image index, x1, y1, x2, y2) -> [R, C, pooled_height, pooled_width]
inline at::Tensor roi_align(const at::Tensor& input, const at::Tensor& rois, double spatial_scale,
                            int64_t pooled_height, int64_t pooled_width, int64_t sampling_ratio, bool aligned) {
  using Signature = std::tuple<at::Tensor, at::Tensor>(
      at::TensorList, const at::Tensor&, const std::optional<at::Tensor>&, at::ArrayRef<double>, c10::SymInt,
      c10::SymInt, int64_t, bool, bool, at::ArrayRef<double>);
  return std::get<0>(call_operator<Signature>("maskrcnn_ops::roi_align", at::TensorList(input), rois, std::nullopt,
                                              at::ArrayRef<double>(spatial_scale), pooled_height, pooled_width,
                                              sampling_ratio, aligned, false, single_level));
}

// grad_output as roi_align's output -> the gradient with respect to `input`, in its shape and layout
inline at::Tensor roi_align_backward(const at::Tensor& grad_output, const at::Tensor& rois, double spatial_scale,
                                     int64_t pooled_height, int64_t pooled_width, int64_t sampling_ratio, bool aligned,
                                     const at::Tensor& input) {
  using Signature = std::vector<at::Tensor>(const at::Tensor&, const std::optional<at::Tensor>&, const at::Tensor&,
                                            const std::optional<at::Tensor>&, at::ArrayRef<double>, int64_t, bool,
                                            at::ArrayRef<double>, c10::SymInt, c10::SymIntArrayRef, at::IntArrayRef);
  const int64_t channels_last = !input.is_contiguous() && input.is_contiguous(at::MemoryFormat::ChannelsLast);
  const std::array<c10::SymInt, 2> sizes = {input.size(2), input.size(3)};
  return call_operator<Signature>("maskrcnn_ops::roi_align_backward", grad_output, std::nullopt, rois, std::nullopt,
                                  at::ArrayRef<double>(spatial_scale), sampling_ratio, aligned, single_level,
                                  input.size(0), c10::SymIntArrayRef(sizes), at::IntArrayRef(channels_last))[0];
}

}  // namespace maskrcnn_ops
