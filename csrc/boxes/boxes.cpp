#include "boxes/boxes.h"

#include <vector>

#include "common/cuda.h"
#include "common/tensors.h"

namespace maskrcnn_ops {
namespace {

// float32 or float64 boxes [..., L, 4], contiguous; the Python face widens half precision.
Tensor check_boxes(const char* op, const Tensor& boxes, const char* name) {
  CHECK_ARG(boxes.dim() >= 2 && boxes.size(-1) == 4, op, ": expected ", name, " of shape [..., L, 4], got ",
            shape_of(boxes));
  const Tensor result = as_coordinates(boxes, op, name);
  CHECK_ARG(result.scalar_type() == boxes.scalar_type(), op, ": expected ", name, " of dtype float32 or float64, got ",
            type_of(boxes));
  return result;
}

struct PairInputs {
  Tensor boxes1, boxes2;
  Pairs pairs;
  std::vector<int64_t> result_shape;
};

PairInputs check_pairs(const char* op, const Tensor& boxes1, const char* name1, const Tensor& boxes2,
                       const char* name2) {
  PairInputs in{check_boxes(op, boxes1, name1), check_boxes(op, boxes2, name2), {1, 0, 0}, {}};
  check_same_device(boxes1, boxes2, op, name1, name2);
  CHECK_ARG(boxes1.scalar_type() == boxes2.scalar_type(), op, ": expected ", name1, " and ", name2,
            " both float32 or both float64, got ", type_of(boxes1), " and ", type_of(boxes2));
  bool same = boxes1.dim() == boxes2.dim();
  for (int64_t i = 0; same && i < boxes1.dim() - 2; ++i) {
    same = boxes1.size(i) == boxes2.size(i);
    in.pairs.batches *= boxes1.size(i);
    in.result_shape.push_back(boxes1.size(i));
  }
  CHECK_ARG(same, op, ": expected ", name1, " and ", name2, " with the same leading dimensions, got ", shape_of(boxes1),
            " and ", shape_of(boxes2));
  in.pairs.rows = boxes1.size(-2);
  in.pairs.columns = boxes2.size(-2);
  in.result_shape.push_back(in.pairs.rows);
  in.result_shape.push_back(in.pairs.columns);
  return in;
}

Tensor overlaps(const char* op, const Tensor& boxes1, const Tensor& boxes2, bool generalized) {
  const PairInputs in = check_pairs(op, boxes1, "boxes1", boxes2, "boxes2");
  Tensor result = empty(in.boxes1, in.result_shape);
  if (result.numel() == 0) return result;
  with_coordinate_type(in.boxes1, [&](auto tag) {
    using C = decltype(tag);
    if (on_cuda(result))
      LAUNCH_CUDA(op, result, box_iou_cuda<C>, pointer<C>(in.boxes1), pointer<C>(in.boxes2), mutable_pointer<C>(result),
                  in.pairs, generalized);
    else box_iou_cpu(pointer<C>(in.boxes1), pointer<C>(in.boxes2), mutable_pointer<C>(result), in.pairs, generalized);
  });
  return result;
}

Tensor box_iou(const Tensor& boxes1, const Tensor& boxes2) { return overlaps("box_iou", boxes1, boxes2, false); }

Tensor generalized_box_iou(const Tensor& boxes1, const Tensor& boxes2) {
  return overlaps("generalized_box_iou", boxes1, boxes2, true);
}

// The gradient of `boxes` alone; `grad` [..., L, M] is read through its strides, so a transposed view costs nothing.
Tensor box_iou_backward(const Tensor& grad, const Tensor& boxes, const Tensor& others, bool generalized) {
  const char* op = "box_iou_backward";
  const PairInputs in = check_pairs(op, boxes, "boxes", others, "others");
  bool fits = grad.dim() == static_cast<int64_t>(in.result_shape.size());
  for (int64_t i = 0; fits && i < grad.dim(); ++i) fits = grad.size(i) == in.result_shape[i];
  CHECK_ARG(fits, op, ": expected grad of the shape of the result, got ", shape_of(grad), " for boxes ",
            shape_of(boxes), " and others ", shape_of(others));
  check_same_device(grad, boxes, op, "grad", "boxes");
  CHECK_ARG(grad.scalar_type() == boxes.scalar_type(), op, ": expected grad and boxes of one dtype, got ",
            type_of(grad), " and ", type_of(boxes));
  Tensor result = empty(in.boxes1, sizes_of(in.boxes1));
  if (result.numel() == 0) return result;
  if (grad.numel() == 0) return torch::stable::zero_(result);
  const Tensor flat = torch::stable::reshape(grad, {in.pairs.batches, in.pairs.rows, in.pairs.columns});
  with_coordinate_type(in.boxes1, [&](auto tag) {
    using C = decltype(tag);
    const PairGradient<C> weights{pointer<C>(flat), flat.stride(0), flat.stride(1), flat.stride(2)};
    if (on_cuda(result))
      LAUNCH_CUDA(op, result, box_iou_backward_cuda<C>, weights, pointer<C>(in.boxes1), pointer<C>(in.boxes2),
                  mutable_pointer<C>(result), in.pairs, generalized);
    else
      box_iou_backward_cpu(weights, pointer<C>(in.boxes1), pointer<C>(in.boxes2), mutable_pointer<C>(result), in.pairs,
                           generalized);
  });
  return result;
}

void register_kernels(torch::stable::detail::StableLibrary& m) {
  m.impl("box_iou", TORCH_BOX(&box_iou));
  m.impl("generalized_box_iou", TORCH_BOX(&generalized_box_iou));
  m.impl("box_iou_backward", TORCH_BOX(&box_iou_backward));
}

}  // namespace
}  // namespace maskrcnn_ops

STABLE_TORCH_LIBRARY_IMPL(maskrcnn_ops, CPU, m) { maskrcnn_ops::register_kernels(m); }
STABLE_TORCH_LIBRARY_IMPL(maskrcnn_ops, CUDA, m) { maskrcnn_ops::register_kernels(m); }
