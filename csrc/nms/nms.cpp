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

using MaybeTensor = std::optional<Tensor>;

void check_shape(const char* op, const Tensor& tensor, const char* name, const Shape& shape, const Tensor& boxes) {
  bool right = tensor.dim() == static_cast<int64_t>(shape.size());
  for (size_t i = 0; right && i < shape.size(); ++i) right = tensor.size(i) == shape[i];
  CHECK_ARG(right, op, ": expected ", name, " of shape ", shape_of(shape), ", got ", shape_of(tensor));
  check_same_device(boxes, tensor, op, "boxes", name);
}

// Integers of any dtype, as int64.
MaybeTensor as_integers(const char* op, const MaybeTensor& tensor, const char* name, const Shape& shape,
                        const Tensor& boxes) {
  if (!tensor) return std::nullopt;
  check_shape(op, *tensor, name, shape, boxes);
  const ScalarType type = tensor->scalar_type();
  CHECK_ARG(type == ScalarType::Byte || type == ScalarType::Char || type == ScalarType::Short ||
                type == ScalarType::Int || type == ScalarType::Long,
            op, ": expected ", name, " of an integer dtype, got ", type_of(*tensor));
  return as_contiguous(*tensor, ScalarType::Long);
}

// The arguments of both operators as the kernels take them.
struct Inputs {
  const char* op;
  Tensor boxes, scores;
  MaybeTensor groups, owners, counts;
  double iou_threshold;
  std::optional<double> score_threshold;
  int64_t images, count, most;
  bool by_all;

  template <class C, class S>
  NmsOptions<C, S> options() const {
    const ScoreFloor<S> floor{static_cast<S>(score_threshold.value_or(0)), score_threshold.has_value()};
    return {nms_rule<C>(iou_threshold), floor, most, by_all};
  }
  template <class C, class S>
  NmsBoxes<C, S> as_boxes() const {
    return {pointer<C>(boxes), pointer<S>(scores), integers(groups), count};
  }
  static const int64_t* integers(const MaybeTensor& tensor) { return tensor ? pointer<int64_t>(*tensor) : nullptr; }

  void check() const {
    CHECK_ARG(count <= most_nms_boxes, op, ": expected at most ", most_nms_boxes, " boxes, got ", count);
    CHECK_ARG(!std::isnan(iou_threshold), op, ": expected a number for iou_threshold, got nan");
    CHECK_ARG(!score_threshold || !std::isnan(*score_threshold), op,
              ": expected a number for score_threshold, got nan");
    CHECK_ARG(most >= 0, op, ": expected max_output of 0 or more, got ", most);
  }
};

// Calls function(C{}, S{}) with the types of coordinates and scores.
template <class Function>
void with_types(const Inputs& inputs, const Function& function) {
  with_coordinate_type(inputs.boxes, [&](auto coordinate) {
    with_coordinate_type(inputs.scores, [&](auto score) { function(coordinate, score); });
  });
}

Inputs check(const Tensor& boxes, const Tensor& scores, const MaybeTensor& idxs, double iou_threshold,
             const MaybeTensor& image_idxs, std::optional<double> score_threshold, std::optional<int64_t> max_output,
             bool fast) {
  const char* op = fast ? "fast_nms" : idxs ? "batched_nms" : "nms";
  CHECK_ARG(boxes.dim() == 2 && boxes.size(1) == 4, op, ": expected boxes of shape [L, 4], got ", shape_of(boxes));
  const int64_t count = boxes.size(0);
  check_shape(op, scores, "scores", {count}, boxes);
  CHECK_ARG(idxs || !image_idxs, op, ": expected idxs beside image_idxs");
  Inputs inputs{op,
                as_coordinates(boxes, op, "boxes"),
                as_coordinates(scores, op, "scores"),
                as_integers(op, idxs, "idxs", {count}, boxes),
                as_integers(op, image_idxs, "image_idxs", {count}, boxes),
                std::nullopt,
                iou_threshold,
                score_threshold,
                1,
                count,
                max_output.value_or(count),
                fast};
  inputs.check();
  return inputs;
}

Inputs check_padded(const Tensor& boxes, const Tensor& scores, const MaybeTensor& classes, const MaybeTensor& counts,
                    double iou_threshold, std::optional<double> score_threshold, int64_t max_output) {
  const char* op = "padded_nms";
  CHECK_ARG(boxes.dim() == 3 && boxes.size(2) == 4, op, ": expected boxes of shape [N, L, 4], got ", shape_of(boxes));
  const int64_t images = boxes.size(0), count = boxes.size(1);
  check_shape(op, scores, "scores", {images, count}, boxes);
  Inputs inputs{op,
                as_coordinates(boxes, op, "boxes"),
                as_coordinates(scores, op, "scores"),
                as_integers(op, classes, "classes", {images, count}, boxes),
                std::nullopt,
                as_integers(op, counts, "counts", {images}, boxes),
                iou_threshold,
                score_threshold,
                images,
                count,
                max_output,
                false};
  inputs.check();
  return inputs;
}

Tensor nms_on_cpu(const Inputs& inputs) {
  std::vector<int64_t> kept;
  with_types(inputs, [&](auto coordinate, auto score) {
    using C = decltype(coordinate);
    using S = decltype(score);
    kept = nms_cpu(inputs.as_boxes<C, S>(), Inputs::integers(inputs.owners), inputs.options<C, S>());
  });
  const auto count = static_cast<int64_t>(kept.size());
  Tensor result = empty(inputs.boxes, {count}, ScalarType::Long);
  if (count > 0) std::memcpy(result.mutable_data_ptr(), kept.data(), sizeof(int64_t) * kept.size());
  return result;
}

std::tuple<Tensor, Tensor> padded_nms_on_cpu(const Inputs& inputs) {
  const Tensor indices = empty(inputs.boxes, {inputs.images, inputs.most}, ScalarType::Long);
  const Tensor kept = empty(inputs.boxes, {inputs.images}, ScalarType::Long);
  with_types(inputs, [&](auto coordinate, auto score) {
    using C = decltype(coordinate);
    using S = decltype(score);
    padded_nms_cpu(inputs.as_boxes<C, S>(), Inputs::integers(inputs.counts), inputs.images, inputs.options<C, S>(),
                   mutable_pointer<int64_t>(indices), mutable_pointer<int64_t>(kept));
  });
  return {indices, kept};
}

// Sorted by torch; `by_owner` as in NmsListing.
struct Orders {
  Tensor by_score, places, by_owner;
};

Orders orders_of(const Inputs& inputs, bool sorted) {
  const Tensor by_score = stable_argsort(inputs.scores, true);
  Orders orders{by_score, by_score, by_score};
  auto then_by = [](const Tensor& order, const Tensor& keys) {
    return take(order, stable_argsort(take(keys, order), false));
  };
  if (sorted) orders.places = then_by(by_score, *inputs.groups);
  if (inputs.owners) {
    orders.places = then_by(orders.places, *inputs.owners);
    orders.by_owner = then_by(by_score, *inputs.owners);
  }
  return orders;
}

// indices [images, room] and kept [images]. With groups, a limit lets boxes be visited by score, to stop early;
// otherwise they are sorted by group, so that groups that do not meet cost nothing.
std::tuple<Tensor, Tensor> run_on_cuda(const Inputs& inputs, int64_t room) {
  auto memory = [&](const Shape& shape, ScalarType type) { return empty(inputs.boxes, shape, type); };
  Tensor indices = memory({inputs.images, room}, ScalarType::Long), kept = memory({inputs.images}, ScalarType::Long);
  if (inputs.images == 0 || inputs.count == 0) return {torch::stable::fill_(indices, -1), torch::stable::zero_(kept)};
  const bool padded = inputs.boxes.dim() == 3;
  const bool sorted = !padded && inputs.groups && (inputs.owners || room == inputs.count || inputs.by_all);
  const NmsSizes sizes{inputs.images, inputs.count, room, sorted};
  const int64_t all = inputs.images * inputs.count, blocks = inputs.images * sizes.tiles(nullptr).blocks();
  const int64_t words = inputs.by_all ? 0 : blocks * sizes.rows() * nms_block;
  const Orders orders = orders_of(inputs, sorted);
  const Tensor boxes = memory({4 * all}, inputs.boxes.scalar_type());
  const Tensor integers = memory({(inputs.groups ? all : 0) + 2 * blocks + inputs.images + words}, ScalarType::Long);
  const Tensor keep = memory({all}, ScalarType::Byte);
  auto* numbers = mutable_pointer<int64_t>(integers);
  [[maybe_unused]] auto* bits = reinterpret_cast<uint64_t*>(numbers + (inputs.groups ? all : 0));
  [[maybe_unused]] const NmsListing listing{pointer<int64_t>(orders.by_score),
                                            inputs.owners ? pointer<int64_t>(orders.by_owner) : nullptr,
                                            Inputs::integers(inputs.owners), inputs.most};
  with_types(inputs, [&](auto coordinate, auto score) {
    using C [[maybe_unused]] = decltype(coordinate);  // in a build without CUDA
    using S [[maybe_unused]] = decltype(score);
    LAUNCH_CUDA(inputs.op, inputs.boxes, (nms_cuda<C, S>), sizes,
                NmsInputs<C, S>{pointer<C>(inputs.boxes), pointer<S>(inputs.scores), Inputs::integers(inputs.groups),
                                Inputs::integers(inputs.owners), Inputs::integers(inputs.counts),
                                pointer<int64_t>(orders.places)},
                listing, (inputs.options<C, S>()),
                NmsWork<C>{mutable_pointer<Box<C>>(boxes), numbers, bits, bits + blocks,
                           reinterpret_cast<int64_t*>(bits + 2 * blocks), bits + 2 * blocks + inputs.images,
                           mutable_pointer<uint8_t>(keep)},
                mutable_pointer<int64_t>(indices), mutable_pointer<int64_t>(kept));
  });
  return {indices, kept};
}

// The number of kept boxes is read back at the end: the one synchronisation.
Tensor nms_on_cuda(const Inputs& inputs) {
  const int64_t room = inputs.owners ? inputs.count : std::min(inputs.most, inputs.count);
  if (inputs.count == 0) return empty(inputs.boxes, {0}, ScalarType::Long);
  const auto [indices, kept] = run_on_cuda(inputs, room);
  const torch::stable::Device cpu(torch::headeronly::DeviceType::CPU);
  const Tensor listed = torch::stable::to(kept, cpu);
  Tensor flat = torch::stable::view(indices, {room});
  return torch::stable::clone(torch::stable::narrow(flat, 0, 0, *pointer<int64_t>(listed)));
}

Tensor nms(const Tensor& boxes, const Tensor& scores, const MaybeTensor& idxs, double iou_threshold,
           const MaybeTensor& image_idxs, std::optional<double> score_threshold, std::optional<int64_t> max_output,
           bool fast) {
  const Inputs inputs = check(boxes, scores, idxs, iou_threshold, image_idxs, score_threshold, max_output, fast);
  return on_cuda(boxes) ? nms_on_cuda(inputs) : nms_on_cpu(inputs);
}

std::tuple<Tensor, Tensor> padded_nms(const Tensor& boxes, const Tensor& scores, const MaybeTensor& classes,
                                      const MaybeTensor& counts, double iou_threshold,
                                      std::optional<double> score_threshold, int64_t max_output) {
  const Inputs inputs = check_padded(boxes, scores, classes, counts, iou_threshold, score_threshold, max_output);
  return on_cuda(boxes) ? run_on_cuda(inputs, max_output) : padded_nms_on_cpu(inputs);
}

void register_kernels(torch::stable::detail::StableLibrary& m) {
  m.impl("nms", TORCH_BOX(&nms));
  m.impl("padded_nms", TORCH_BOX(&padded_nms));
}

}  // namespace
}  // namespace maskrcnn_ops

STABLE_TORCH_LIBRARY_IMPL(maskrcnn_ops, CPU, m) { maskrcnn_ops::register_kernels(m); }
STABLE_TORCH_LIBRARY_IMPL(maskrcnn_ops, CUDA, m) { maskrcnn_ops::register_kernels(m); }
