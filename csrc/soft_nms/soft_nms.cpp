#include "soft_nms/soft_nms.h"

#include <cmath>
#include <cstring>
#include <optional>

#include "common/cuda.h"
#include "common/dispatcher.h"
#include "common/tensors.h"

namespace maskrcnn_ops {
namespace {

constexpr const char* op = "soft_nms";

void check_column(const Tensor& column, const char* name, const Tensor& boxes) {
  CHECK_ARG(column.dim() == 1 && column.size(0) == boxes.size(0), op, ": expected ", name, " of shape [", boxes.size(0),
            "], got ", shape_of(column));
  check_same_device(boxes, column, op, "boxes", name);
}

// The arguments as the kernels take them: boxes and scores of one dtype, idxs as int64.
struct Inputs {
  Tensor boxes, scores;
  std::optional<Tensor> groups;
  double iou_threshold, sigma, score_threshold;
  bool gaussian;

  template <class C>
  auto rule() const {
    return soft_rule<C>(iou_threshold, sigma, score_threshold, gaussian);
  }
};

Inputs check(const Tensor& boxes, const Tensor& scores, const std::optional<Tensor>& idxs, double iou_threshold,
             double sigma, double score_threshold, bool gaussian) {
  CHECK_ARG(boxes.dim() == 2 && boxes.size(1) == 4, op, ": expected boxes of shape [L, 4], got ", shape_of(boxes));
  CHECK_ARG(boxes.size(0) <= most_soft_nms_boxes, op, ": expected at most ", most_soft_nms_boxes, " boxes, got ",
            boxes.size(0));
  check_column(scores, "scores", boxes);
  CHECK_ARG(!std::isnan(iou_threshold), op, ": expected a number for iou_threshold, got nan");
  CHECK_ARG(!std::isnan(score_threshold), op, ": expected a number for score_threshold, got nan");
  CHECK_ARG(!gaussian || sigma > 0, op, ": expected sigma above 0, got ", sigma);
  Inputs inputs{as_coordinates(boxes, op, "boxes"),
                as_coordinates(scores, op, "scores"),
                std::nullopt,
                iou_threshold,
                sigma,
                score_threshold,
                gaussian};
  if (inputs.boxes.scalar_type() != inputs.scores.scalar_type()) {
    inputs.boxes = torch::stable::to(inputs.boxes, ScalarType::Double);
    inputs.scores = torch::stable::to(inputs.scores, ScalarType::Double);
  }
  if (idxs) {
    check_column(*idxs, "idxs", boxes);
    const ScalarType type = idxs->scalar_type();
    CHECK_ARG(type == ScalarType::Byte || type == ScalarType::Char || type == ScalarType::Short ||
                  type == ScalarType::Int || type == ScalarType::Long,
              op, ": expected idxs of an integer dtype, got ", type_of(*idxs));
    inputs.groups = as_contiguous(*idxs, ScalarType::Long);
  }
  return inputs;
}

std::tuple<Tensor, Tensor> soft_nms_on_cpu(const Inputs& inputs) {
  Tensor indices, kept_scores;
  with_coordinate_type(inputs.boxes, [&](auto coordinate) {
    using C = decltype(coordinate);
    const std::vector<C> decayed = soft_nms_cpu(pointer<C>(inputs.boxes), pointer<C>(inputs.scores),
                                                inputs.groups ? pointer<int64_t>(*inputs.groups) : nullptr,
                                                inputs.boxes.size(0), inputs.rule<C>());
    const std::vector<int64_t> kept = kept_by_score(decayed);
    const auto count = static_cast<int64_t>(kept.size());
    indices = empty(inputs.boxes, {count}, ScalarType::Long);
    kept_scores = empty(inputs.scores, {count});
    for (int64_t k = 0; k < count; ++k) {
      mutable_pointer<int64_t>(indices)[k] = kept[k];
      mutable_pointer<C>(kept_scores)[k] = decayed[kept[k]];
    }
  });
  return {indices, kept_scores};
}

// Torch sorts by group before and by score after; the number of kept boxes is read back at the end.
std::tuple<Tensor, Tensor> soft_nms_on_cuda(const Inputs& inputs) {
  const int64_t count = inputs.boxes.size(0);
  const ScalarType type = inputs.scores.scalar_type();
  auto memory = [&](int64_t size, ScalarType dtype) { return empty(inputs.boxes, {size}, dtype); };
  if (count == 0) return {memory(0, ScalarType::Long), memory(0, type)};
  std::optional<Tensor> order, groups;
  if (inputs.groups) {
    order = stable_argsort(*inputs.groups, false);
    groups = take(*inputs.groups, *order);
  }
  const Tensor sorted = memory(4 * count, type), rest = memory(count, type), decayed = memory(count, type);
  const Tensor kept = memory(1, ScalarType::Long);
  with_coordinate_type(inputs.boxes, [&](auto coordinate) {
    using C [[maybe_unused]] = decltype(coordinate);  // in a build without CUDA
    LAUNCH_CUDA(op, inputs.boxes, soft_nms_cuda<C>, pointer<C>(inputs.boxes), pointer<C>(inputs.scores),
                order ? pointer<int64_t>(*order) : nullptr, groups ? pointer<int64_t>(*groups) : nullptr, count,
                inputs.rule<C>(), mutable_pointer<Box<C>>(sorted), mutable_pointer<C>(rest),
                mutable_pointer<C>(decayed));
  });
  Tensor by_score = stable_argsort(decayed, true);
  Tensor descending = take(decayed, by_score);
  with_coordinate_type(inputs.boxes, [&](auto coordinate) {
    using C [[maybe_unused]] = decltype(coordinate);
    LAUNCH_CUDA(op, inputs.boxes, count_kept_cuda<C>, pointer<C>(descending), count, mutable_pointer<int64_t>(kept));
  });
  const torch::stable::Device cpu(torch::headeronly::DeviceType::CPU);
  const int64_t number = *pointer<int64_t>(torch::stable::to(kept, cpu));
  return {torch::stable::clone(torch::stable::narrow(by_score, 0, 0, number)),
          torch::stable::clone(torch::stable::narrow(descending, 0, 0, number))};
}

std::tuple<Tensor, Tensor> soft_nms(const Tensor& boxes, const Tensor& scores, const std::optional<Tensor>& idxs,
                                    double iou_threshold, double sigma, double score_threshold, bool gaussian) {
  const Inputs inputs = check(boxes, scores, idxs, iou_threshold, sigma, score_threshold, gaussian);
  return on_cuda(boxes) ? soft_nms_on_cuda(inputs) : soft_nms_on_cpu(inputs);
}

}  // namespace
}  // namespace maskrcnn_ops

STABLE_TORCH_LIBRARY_IMPL(maskrcnn_ops, CPU, m) { m.impl("soft_nms", TORCH_BOX(&maskrcnn_ops::soft_nms)); }
STABLE_TORCH_LIBRARY_IMPL(maskrcnn_ops, CUDA, m) { m.impl("soft_nms", TORCH_BOX(&maskrcnn_ops::soft_nms)); }
