#include "nms/nms.h"

#include <cmath>
#include <cstring>
#include <optional>

#include "common/cuda.h"
#include "common/dispatcher.h"
#include "common/tensors.h"
#include "nms/tiles.h"

namespace maskrcnn_ops {
namespace {

void check_column(const char* op, const Tensor& column, const char* name, const Tensor& boxes) {
  CHECK_ARG(column.dim() == 1 && column.size(0) == boxes.size(0), op, ": expected ", name, " of shape [", boxes.size(0),
            "], got ", shape_of(column));
  check_same_device(boxes, column, op, "boxes", name);
}

void check_integers(const char* op, const Tensor& idxs) {
  const ScalarType type = idxs.scalar_type();
  CHECK_ARG(type == ScalarType::Byte || type == ScalarType::Char || type == ScalarType::Short ||
                type == ScalarType::Int || type == ScalarType::Long,
            op, ": expected idxs of an integer dtype, got ", type_of(idxs));
}

// The arguments as the kernels take them; idxs as int64.
struct Inputs {
  Tensor boxes, scores;
  std::optional<Tensor> groups;
};

Inputs check(const char* op, const Tensor& boxes, const Tensor& scores, const std::optional<Tensor>& idxs,
             double iou_threshold) {
  CHECK_ARG(boxes.dim() == 2 && boxes.size(1) == 4, op, ": expected boxes of shape [L, 4], got ", shape_of(boxes));
  CHECK_ARG(boxes.size(0) <= most_nms_boxes, op, ": expected at most ", most_nms_boxes, " boxes, got ", boxes.size(0));
  check_column(op, scores, "scores", boxes);
  if (idxs) {
    check_column(op, *idxs, "idxs", boxes);
    check_integers(op, *idxs);
  }
  CHECK_ARG(!std::isnan(iou_threshold), op, ": expected a number for iou_threshold, got nan");
  Inputs inputs{as_coordinates(boxes, op, "boxes"), as_coordinates(scores, op, "scores"), std::nullopt};
  if (idxs) inputs.groups = torch::stable::contiguous(torch::stable::to(*idxs, ScalarType::Long));
  return inputs;
}

// Calls function(C{}, S{}) with the types of coordinates and scores.
template <class Function>
void with_types(const Inputs& inputs, const Function& function) {
  with_coordinate_type(inputs.boxes, [&](auto coordinate) {
    with_coordinate_type(inputs.scores, [&](auto score) { function(coordinate, score); });
  });
}

Tensor nms(const Tensor& boxes, const Tensor& scores, const std::optional<Tensor>& idxs, double iou_threshold) {
  const Inputs inputs = check(idxs ? "batched_nms" : "nms", boxes, scores, idxs, iou_threshold);
  std::vector<int64_t> kept;
  with_types(inputs, [&](auto coordinate, auto score) {
    using C = decltype(coordinate);
    using S = decltype(score);
    kept =
        nms_cpu(pointer<C>(inputs.boxes), pointer<S>(inputs.scores),
                inputs.groups ? pointer<int64_t>(*inputs.groups) : nullptr, boxes.size(0), nms_rule<C>(iou_threshold));
  });
  const auto count = static_cast<int64_t>(kept.size());
  Tensor result = torch::stable::empty({count}, ScalarType::Long);
  if (count > 0) std::memcpy(result.mutable_data_ptr(), kept.data(), sizeof(int64_t) * kept.size());
  return result;
}

// On CUDA torch sorts, and the number of kept boxes is read back at the end: the one synchronisation.
Tensor nms_on_cuda(const Tensor& boxes, const Tensor& scores, const std::optional<Tensor>& idxs, double iou_threshold) {
  const char* op = idxs ? "batched_nms" : "nms";
  const Inputs inputs = check(op, boxes, scores, idxs, iou_threshold);
  const int64_t count = boxes.size(0);
  auto room = [&](int64_t size, ScalarType type) {
    return torch::stable::empty({size}, type, std::nullopt, boxes.device());
  };
  Tensor result = room(count + 1, ScalarType::Long);
  if (count == 0) return torch::stable::narrow(result, 0, 0, 0);
  const Tensor by_score = stable_argsort(inputs.scores, true);
  Tensor places = by_score, groups = by_score;  // without idxs `groups` is not used
  if (idxs) {
    const Tensor shuffled = take(*inputs.groups, by_score);
    const Tensor by_group = stable_argsort(shuffled, false);
    places = take(by_score, by_group);
    groups = take(shuffled, by_group);
  }
  const NmsOrder order{count, pointer<int64_t>(places), idxs ? pointer<int64_t>(groups) : nullptr,
                       pointer<int64_t>(by_score)};
  const NmsTiles tiles{count, order.groups};
  const int64_t blocks = tiles.blocks();
  const Tensor sorted = room(4 * count, inputs.boxes.scalar_type());
  const Tensor suppressed = room(blocks, ScalarType::Long), kept = room(blocks, ScalarType::Long);
  const Tensor words = room(panel_rows(tiles, most_nms_words) * nms_block * blocks, ScalarType::Long);
  const Tensor keep = room(count, ScalarType::Byte);
  with_types(inputs, [&](auto coordinate, auto score) {
    using C [[maybe_unused]] = decltype(coordinate);  // in a build without CUDA
    using S [[maybe_unused]] = decltype(score);
    LAUNCH_CUDA(
        op, boxes, (nms_cuda<C, S>), pointer<C>(inputs.boxes), pointer<S>(inputs.scores), order,
        nms_rule<C>(iou_threshold),
        NmsWork<C>{mutable_pointer<Box<C>>(sorted), mutable_pointer<uint64_t>(suppressed),
                   mutable_pointer<uint64_t>(kept), mutable_pointer<uint64_t>(words), mutable_pointer<uint8_t>(keep)},
        mutable_pointer<int64_t>(result));
  });
  const torch::stable::Device cpu(torch::headeronly::DeviceType::CPU);
  const Tensor listed = torch::stable::to(torch::stable::narrow(result, 0, count, 1), cpu);
  return torch::stable::clone(torch::stable::narrow(result, 0, 0, *pointer<int64_t>(listed)));
}

}  // namespace
}  // namespace maskrcnn_ops

STABLE_TORCH_LIBRARY_IMPL(maskrcnn_ops, CPU, m) { m.impl("nms", TORCH_BOX(&maskrcnn_ops::nms)); }
STABLE_TORCH_LIBRARY_IMPL(maskrcnn_ops, CUDA, m) { m.impl("nms", TORCH_BOX(&maskrcnn_ops::nms_on_cuda)); }
