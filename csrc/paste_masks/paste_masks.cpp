#include "paste_masks/paste_masks.h"

#include "common/cuda.h"
#include "paste_masks/inputs.h"

namespace maskrcnn_ops {
namespace {

using paste_inputs::check_boxes;
using paste_inputs::check_inputs;
using paste_inputs::Inputs;
using paste_inputs::most;
using paste_inputs::with_types;

Tensor paste_masks(const Tensor& masks, const Tensor& boxes, int64_t height, int64_t width, double threshold,
                   bool integer) {
  const char* op = "paste_masks";
  const Inputs in = check_inputs(op, masks, boxes, height, width, integer);
  CHECK_ARG(threshold == threshold, op, ": expected threshold to be a number or None, got nan");
  Tensor output = empty(in.masks, {in.args.masks, height, width}, ScalarType::Bool);
  if (output.numel() == 0) return output;
  if (masks.numel() == 0) return torch::stable::fill_(output, 0 > threshold);
  with_types(in.masks, in.boxes, [&](auto element, auto coordinate) {
    using T = decltype(element);
    using C = decltype(coordinate);
    const auto limit = static_cast<Acc<T>>(threshold);
    if (on_cuda(masks))
      LAUNCH_CUDA(op, masks, (paste_masks_cuda<T, C>), pointer<T>(in.masks), pointer<C>(in.boxes),
                  mutable_pointer<uint8_t>(output), limit, in.args);
    else paste_masks_cpu(pointer<T>(in.masks), pointer<C>(in.boxes), mutable_pointer<uint8_t>(output), limit, in.args);
  });
  return output;
}

Tensor paste_probabilities(const Tensor& masks, const Tensor& boxes, int64_t height, int64_t width, bool integer) {
  const char* op = "paste_masks";
  const Inputs in = check_inputs(op, masks, boxes, height, width, integer);
  Tensor output = empty(in.masks, {in.args.masks, height, width});
  if (output.numel() == 0) return output;
  if (masks.numel() == 0) return torch::stable::zero_(output);
  with_types(in.masks, in.boxes, [&](auto element, auto coordinate) {
    using T = decltype(element);
    using C = decltype(coordinate);
    if (on_cuda(masks))
      LAUNCH_CUDA(op, masks, (paste_probabilities_cuda<T, C>), pointer<T>(in.masks), pointer<C>(in.boxes),
                  mutable_pointer<T>(output), in.args);
    else paste_probabilities_cpu(pointer<T>(in.masks), pointer<C>(in.boxes), mutable_pointer<T>(output), in.args);
  });
  return output;
}

Tensor paste_probabilities_backward(const Tensor& grad_output, const Tensor& boxes, int64_t mask_height,
                                    int64_t mask_width, bool integer) {
  const char* op = "paste_probabilities_backward";
  CHECK_ARG(grad_output.dim() == 3, op, ": expected grad_output of shape [D, H, W], got ", shape_of(grad_output));
  check_floating(grad_output, op, "grad_output");
  CHECK_ARG(mask_height >= 0 && mask_width >= 0 && mask_height <= most && mask_width <= most, op,
            ": expected the size of the masks between (0, 0) and (2^30, 2^30), got (", mask_height, ", ", mask_width,
            ")");
  CHECK_ARG(grad_output.size(1) <= most && grad_output.size(2) <= most, op,
            ": expected grad_output with sides of at most 2^30, got ", shape_of(grad_output));
  const Tensor coordinates = check_boxes(op, boxes, grad_output, "grad_output");
  const Tensor grad = as_contiguous(grad_output);
  Tensor grad_masks = empty(grad, {grad.size(0), mask_height, mask_width});
  if (grad_masks.numel() == 0) return grad_masks;
  if (grad.numel() == 0) return torch::stable::zero_(grad_masks);
  const PasteMasks args{grad.size(0),
                        static_cast<int>(mask_height),
                        static_cast<int>(mask_width),
                        static_cast<int>(grad.size(1)),
                        static_cast<int>(grad.size(2)),
                        integer};
  with_types(grad, coordinates, [&](auto element, auto coordinate) {
    using T = decltype(element);
    using C = decltype(coordinate);
    if (on_cuda(grad))
      LAUNCH_CUDA(op, grad, (paste_probabilities_backward_cuda<T, C>), pointer<T>(grad), pointer<C>(coordinates),
                  mutable_pointer<T>(grad_masks), args);
    else
      paste_probabilities_backward_cpu(pointer<T>(grad), pointer<C>(coordinates), mutable_pointer<T>(grad_masks), args);
  });
  return grad_masks;
}

void register_kernels(torch::stable::detail::StableLibrary& m) {
  m.impl("paste_masks", TORCH_BOX(&paste_masks));
  m.impl("paste_probabilities", TORCH_BOX(&paste_probabilities));
  m.impl("paste_probabilities_backward", TORCH_BOX(&paste_probabilities_backward));
}

}  // namespace
}  // namespace maskrcnn_ops

STABLE_TORCH_LIBRARY_IMPL(maskrcnn_ops, CPU, m) { maskrcnn_ops::register_kernels(m); }
STABLE_TORCH_LIBRARY_IMPL(maskrcnn_ops, CUDA, m) { maskrcnn_ops::register_kernels(m); }
