#include "nms/nms.h"

#include <cmath>
#include <cstring>
#include <optional>

#include "common/cuda.h"
#include "common/tensors.h"

namespace maskrcnn_ops {
namespace {

void check_column(const char* op, const Tensor& column, const char* name, const Tensor& boxes) {
  CHECK_ARG(column.dim() == 1 && column.size(0) == boxes.size(0), op, ": expected ", name, " of shape [",
            boxes.size(0), "], got ", shape_of(column));
  check_same_device(boxes, column, op, "boxes", name);
}

void check_integers(const char* op, const Tensor& idxs) {
  const ScalarType type = idxs.scalar_type();
  CHECK_ARG(type == ScalarType::Byte || type == ScalarType::Char || type == ScalarType::Short ||
                type == ScalarType::Int || type == ScalarType::Long,
            op, ": expected idxs of an integer dtype, got ", type_of(idxs));
}

Tensor indices(const std::vector<int64_t>& values, const Tensor& like) {
  const auto count = static_cast<int64_t>(values.size());
  Tensor result = torch::stable::empty({count}, ScalarType::Long, std::nullopt, like.device());
  if (count > 0) std::memcpy(mutable_pointer<int64_t>(result), values.data(), sizeof(int64_t) * values.size());
  return result;
}

Tensor nms(const Tensor& boxes, const Tensor& scores, const std::optional<Tensor>& idxs, double iou_threshold) {
  const char* op = idxs ? "batched_nms" : "nms";
  CHECK_ARG(boxes.dim() == 2 && boxes.size(1) == 4, op, ": expected boxes of shape [L, 4], got ", shape_of(boxes));
  CHECK_ARG(boxes.size(0) <= most_nms_boxes, op, ": expected at most ", most_nms_boxes, " boxes, got ", boxes.size(0));
  check_column(op, scores, "scores", boxes);
  const Tensor corners = as_coordinates(boxes, op, "boxes"), marks = as_coordinates(scores, op, "scores");
  std::optional<Tensor> groups;
  if (idxs) {
    check_column(op, *idxs, "idxs", boxes);
    check_integers(op, *idxs);
    groups = torch::stable::contiguous(torch::stable::to(*idxs, ScalarType::Long));
  }
  CHECK_ARG(!std::isnan(iou_threshold), op, ": expected a number for iou_threshold, got nan");
  std::vector<int64_t> kept;
  with_coordinate_type(corners, [&](auto coordinate) {
    with_coordinate_type(marks, [&](auto score) {
      using C = decltype(coordinate);
      using S = decltype(score);
      kept = nms_cpu(pointer<C>(corners), pointer<S>(marks), groups ? pointer<int64_t>(*groups) : nullptr,
                     corners.size(0), nms_rule<C>(iou_threshold));
    });
  });
  return indices(kept, boxes);
}

}  // namespace
}  // namespace maskrcnn_ops

STABLE_TORCH_LIBRARY_IMPL(maskrcnn_ops, CPU, m) { m.impl("nms", TORCH_BOX(&maskrcnn_ops::nms)); }
