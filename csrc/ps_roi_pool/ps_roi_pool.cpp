#include "ps_roi_pool/ps_roi_pool.h"

#include "common/cuda.h"
#include "common/rois.h"

namespace maskrcnn_ops {
namespace {

PsRoiPool options(const char* op, int64_t images, int64_t channels, int64_t height, int64_t width, int64_t rois,
                  int64_t pooled_height, int64_t pooled_width, double spatial_scale, int64_t sampling_ratio) {
  CHECK_ARG(sampling_ratio <= 65536, op, ": expected sampling_ratio of at most 65536, got ", sampling_ratio);
  auto narrow = [](int64_t value) { return static_cast<int>(value); };
  return {images,
          rois,
          narrow(channels),
          narrow(height),
          narrow(width),
          narrow(pooled_height),
          narrow(pooled_width),
          narrow(sampling_ratio > 0 ? sampling_ratio : 0),
          spatial_scale};
}

template <template <class> class Bins>
Tensor pool(const char* op, const Tensor& input, const Tensor& rois, double spatial_scale, int64_t sampling_ratio,
            int64_t pooled_height, int64_t pooled_width) {
  const Tensor boxes = check_pooling(op, input, rois, pooled_height, pooled_width);
  const int64_t bins = pooled_height * pooled_width;
  CHECK_ARG(input.size(1) % bins == 0, op, ": expected input with a multiple of ", pooled_height, " * ", pooled_width,
            " channels (output_size), got ", input.size(1));
  const PsRoiPool args = options(op, input.size(0), input.size(1) / bins, input.size(2), input.size(3), boxes.size(0),
                                 pooled_height, pooled_width, spatial_scale, sampling_ratio);
  Tensor output =
      empty_map(input, {boxes.size(0), args.channels, pooled_height, pooled_width}, is_channels_last(input));
  if (output.numel() == 0) return output;
  if (input.numel() == 0) return torch::stable::zero_(output);
  with_element_type(input, [&](auto element) {
    using T = decltype(element);
    if (on_cuda(input))
      LAUNCH_CUDA(op, input, (ps_roi_pool_cuda<Bins, T>), pointer<T>(input), strides_of(input), pointer<Acc<T>>(boxes),
                  mutable_pointer<T>(output), strides_of(output), args);
    else
      ps_roi_pool_cpu<Bins>(pointer<T>(input), strides_of(input), pointer<Acc<T>>(boxes), mutable_pointer<T>(output),
                            strides_of(output), args);
  });
  return output;
}

template <template <class> class Bins>
Tensor pool_backward(const char* op, const Tensor& grad_output, const Tensor& rois, double spatial_scale,
                     int64_t sampling_ratio, int64_t images, int64_t height, int64_t width, bool channels_last) {
  CHECK_ARG(grad_output.dim() == 4, op, ": expected grad_output of shape [R, C, P, P], got ", shape_of(grad_output));
  const int64_t channels = grad_output.size(1), pooled_height = grad_output.size(2), pooled_width = grad_output.size(3);
  const Tensor boxes = as_rois(op, grad_output, rois);
  CHECK_ARG(grad_output.size(0) == boxes.size(0), op, ": expected grad_output of ", boxes.size(0), " rois, got ",
            shape_of(grad_output));
  check_pooled_size(op, pooled_height, pooled_width);
  check_image_indices(op, boxes, images);
  const PsRoiPool args = options(op, images, channels, height, width, boxes.size(0), pooled_height, pooled_width,
                                 spatial_scale, sampling_ratio);
  Tensor grad_input =
      empty_map(grad_output, {images, channels * pooled_height * pooled_width, height, width}, channels_last);
  if (grad_input.numel() == 0) return grad_input;
  if (grad_output.numel() == 0) return torch::stable::zero_(grad_input);
  with_element_type(grad_output, [&](auto element) {
    using T = decltype(element);
    if (on_cuda(grad_output))
      LAUNCH_CUDA(op, grad_output, (ps_roi_pool_backward_cuda<Bins, T>), pointer<T>(grad_output),
                  strides_of(grad_output), pointer<Acc<T>>(boxes), mutable_pointer<T>(grad_input),
                  strides_of(grad_input), args);
    else
      ps_roi_pool_backward_cpu<Bins>(pointer<T>(grad_output), strides_of(grad_output), pointer<Acc<T>>(boxes),
                                     mutable_pointer<T>(grad_input), strides_of(grad_input), args);
  });
  return grad_input;
}

Tensor ps_roi_align(const Tensor& input, const Tensor& rois, double spatial_scale, int64_t sampling_ratio,
                    int64_t pooled_height, int64_t pooled_width) {
  return pool<SampledBins>("ps_roi_align", input, rois, spatial_scale, sampling_ratio, pooled_height, pooled_width);
}

Tensor ps_roi_align_backward(const Tensor& grad_output, const Tensor& rois, double spatial_scale,
                             int64_t sampling_ratio, int64_t images, int64_t height, int64_t width,
                             bool channels_last) {
  return pool_backward<SampledBins>("ps_roi_align_backward", grad_output, rois, spatial_scale, sampling_ratio, images,
                                    height, width, channels_last);
}

Tensor ps_roi_pool(const Tensor& input, const Tensor& rois, double spatial_scale, int64_t pooled_height,
                   int64_t pooled_width) {
  return pool<WholeBins>("ps_roi_pool", input, rois, spatial_scale, 0, pooled_height, pooled_width);
}

Tensor ps_roi_pool_backward(const Tensor& grad_output, const Tensor& rois, double spatial_scale, int64_t images,
                            int64_t height, int64_t width, bool channels_last) {
  return pool_backward<WholeBins>("ps_roi_pool_backward", grad_output, rois, spatial_scale, 0, images, height, width,
                                  channels_last);
}

void register_kernels(torch::stable::detail::StableLibrary& m) {
  m.impl("ps_roi_align", TORCH_BOX(&ps_roi_align));
  m.impl("ps_roi_align_backward", TORCH_BOX(&ps_roi_align_backward));
  m.impl("ps_roi_pool", TORCH_BOX(&ps_roi_pool));
  m.impl("ps_roi_pool_backward", TORCH_BOX(&ps_roi_pool_backward));
}

}  // namespace
}  // namespace maskrcnn_ops

STABLE_TORCH_LIBRARY_IMPL(maskrcnn_ops, CPU, m) { maskrcnn_ops::register_kernels(m); }
STABLE_TORCH_LIBRARY_IMPL(maskrcnn_ops, CUDA, m) { maskrcnn_ops::register_kernels(m); }
