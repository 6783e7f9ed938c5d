#include "paste_masks/paste_masks.h"

#include "common/cuda.h"
#include "common/tensors.h"

namespace maskrcnn_ops {
namespace {

constexpr int64_t most = 1 << 30;  // pixels of an image's side: int32 arithmetic on pixels cannot overflow

// Checked inputs, contiguous, boxes in float32 or float64.
struct Inputs {
  Tensor masks, boxes;
  PasteMasks args;
};

Tensor check_boxes(const char* op, const Tensor& boxes, const Tensor& like, const char* like_name) {
  CHECK_ARG(boxes.dim() == 2 && boxes.size(1) == 4, op, ": expected boxes of shape [D, 4], got ", shape_of(boxes));
  CHECK_ARG(boxes.size(0) == like.size(0), op, ": expected as many boxes as ", like_name, ", got ", boxes.size(0),
            " and ", like.size(0));
  check_same_device(like, boxes, op, like_name, "boxes");
  return as_coordinates(boxes, op, "boxes");
}

Inputs check_inputs(const char* op, const Tensor& masks, const Tensor& boxes, int64_t height, int64_t width,
                    bool integer) {
  CHECK_ARG(masks.dim() == 3, op, ": expected masks of shape [D, M, M] or [D, 1, M, M], got ", shape_of(masks));
  check_floating(masks, op, "masks");
  CHECK_ARG(height >= 0 && width >= 0 && height <= most && width <= most, op,
            ": expected image_size (H, W) between (0, 0) and (2^30, 2^30), got (", height, ", ", width, ")");
  CHECK_ARG(masks.size(1) <= most && masks.size(2) <= most, op, ": expected masks with sides of at most 2^30, got ",
            shape_of(masks));
  const Tensor coordinates = check_boxes(op, boxes, masks, "masks");
  return {torch::stable::contiguous(masks),
          coordinates,
          {masks.size(0), static_cast<int>(masks.size(1)), static_cast<int>(masks.size(2)), static_cast<int>(height),
           static_cast<int>(width), integer}};
}

// Calls function(T{}, C{}) with the kernels' types of the values and of the boxes.
template <class Function>
void with_types(const Tensor& values, const Tensor& boxes, const Function& function) {
  with_element_type(values, [&](auto element) {
    with_coordinate_type(boxes, [&](auto coordinate) { function(element, coordinate); });
  });
}

Tensor paste_masks(const Tensor& masks, const Tensor& boxes, int64_t height, int64_t width, double threshold,
                   bool integer) {
  const char* op = "paste_masks";
  const Inputs in = check_inputs(op, masks, boxes, height, width, integer);
  CHECK_ARG(threshold == threshold, op, ": expected threshold to be a number or None, got nan");
  Tensor output = torch::stable::new_empty(in.masks, {in.args.masks, height, width}, ScalarType::Bool);
  if (output.numel() == 0) return output;
  if (masks.numel() == 0) return torch::stable::fill_(output, 0 > threshold);
  with_types(in.masks, in.boxes, [&](auto element, auto coordinate) {
    using T = decltype(element);
    using C = decltype(coordinate);
    const auto limit = static_cast<Acc<T>>(threshold);
    if (masks.is_cuda())
      LAUNCH_CUDA(op, masks, (paste_masks_cuda<T, C>), pointer<T>(in.masks), pointer<C>(in.boxes),
                  mutable_pointer<uint8_t>(output), limit, in.args);
    else paste_masks_cpu(pointer<T>(in.masks), pointer<C>(in.boxes), mutable_pointer<uint8_t>(output), limit, in.args);
  });
  return output;
}

Tensor paste_probabilities(const Tensor& masks, const Tensor& boxes, int64_t height, int64_t width, bool integer) {
  const char* op = "paste_masks";
  const Inputs in = check_inputs(op, masks, boxes, height, width, integer);
  Tensor output = torch::stable::new_empty(in.masks, {in.args.masks, height, width});
  if (output.numel() == 0) return output;
  if (masks.numel() == 0) return torch::stable::zero_(output);
  with_types(in.masks, in.boxes, [&](auto element, auto coordinate) {
    using T = decltype(element);
    using C = decltype(coordinate);
    if (masks.is_cuda())
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
  const Tensor grad = torch::stable::contiguous(grad_output);
  Tensor grad_masks = torch::stable::new_empty(grad, {grad.size(0), mask_height, mask_width});
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
    if (grad.is_cuda())
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
