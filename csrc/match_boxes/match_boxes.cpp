#include "match_boxes/match_boxes.h"

#include <tuple>
#include <vector>

#include "common/cuda.h"
#include "common/tensors.h"

namespace maskrcnn_ops {
namespace {

// float32 or float64 rows of four, contiguous; the Python face widens half precision.
Tensor check_rows(const char* op, const Tensor& tensor, const char* name, const char* shape) {
  CHECK_ARG(tensor.dim() == 2 && tensor.size(1) == 4, op, ": expected ", name, " of shape ", shape, ", got ",
            shape_of(tensor));
  const Tensor result = as_coordinates(tensor, op, name);
  CHECK_ARG(result.scalar_type() == tensor.scalar_type(), op, ": expected ", name, " of dtype float32 or float64, got ",
            type_of(tensor));
  return result;
}

void check_beside(const char* op, const Tensor& truths, const Tensor& other, const char* name) {
  check_same_device(truths, other, op, "gt_boxes", name);
  CHECK_ARG(truths.scalar_type() == other.scalar_type(), op, ": expected gt_boxes and ", name,
            " both float32 or both float64, got ", type_of(truths), " and ", type_of(other));
}

template <class C, class Boxes>
std::tuple<Tensor, Tensor> match(const char* op, const Tensor& truths, const Boxes& boxes, double high, double low,
                                 bool low_quality) {
  CHECK_ARG(low <= high, op, ": expected low <= high, got ", low, " and ", high);
  CHECK_ARG(truths.size(0) < int64_t(1) << 31, op, ": expected fewer than 2^31 gt_boxes, got ", truths.size(0));
  const MatchRule<C> rule{truths.size(0), static_cast<C>(high), static_cast<C>(low), low_quality};
  Tensor matches = empty(truths, {boxes.size()}, ScalarType::Long);
  Tensor ious = empty(truths, {boxes.size()});
  if (boxes.size() == 0) return {matches, ious};
  if (on_cuda(truths)) {
    const Tensor truth_best = empty(truths, {rule.truths}, ScalarType::Long);
    LAUNCH_CUDA(op, truths, (match_boxes_cuda<C, Boxes>), pointer<C>(truths), boxes, mutable_pointer<int64_t>(matches),
                mutable_pointer<C>(ious), mutable_pointer<int64_t>(truth_best), rule);
  } else {
    match_boxes_cpu(pointer<C>(truths), boxes, mutable_pointer<int64_t>(matches), mutable_pointer<C>(ious), rule);
  }
  return {matches, ious};
}

std::tuple<Tensor, Tensor> match_boxes(const Tensor& gt_boxes, const Tensor& boxes, double high, double low,
                                       bool allow_low_quality) {
  const char* op = "match_boxes";
  const Tensor truths = check_rows(op, gt_boxes, "gt_boxes", "[G, 4]");
  const Tensor rows = check_rows(op, boxes, "boxes", "[B, 4]");
  check_beside(op, truths, rows, "boxes");
  std::tuple<Tensor, Tensor> result{truths, truths};
  with_coordinate_type(truths, [&](auto tag) {
    using C = decltype(tag);
    result = match<C>(op, truths, StoredBoxes<C>{pointer<C>(rows), rows.size(0)}, high, low, allow_low_quality);
  });
  return result;
}

std::tuple<Tensor, Tensor> match_anchors(const Tensor& gt_boxes, const std::vector<Tensor>& cell_anchors,
                                         const std::vector<int64_t>& grid_sizes, const std::vector<double>& strides,
                                         double high, double low, bool allow_low_quality) {
  const char* op = "match_anchors";
  const Tensor truths = check_rows(op, gt_boxes, "gt_boxes", "[G, 4]");
  const int64_t grids = cell_anchors.size();
  CHECK_ARG(grids <= most_grids, op, ": expected at most ", most_grids, " cell_anchors, got ", grids);
  CHECK_ARG(static_cast<int64_t>(grid_sizes.size()) == 2 * grids && static_cast<int64_t>(strides.size()) == 2 * grids,
            op, ": expected a (y, x) pair of grid_sizes and strides for each of ", grids, " cell_anchors, got ",
            grid_sizes.size(), " and ", strides.size(), " numbers");
  std::vector<Tensor> cells;
  for (const Tensor& each : cell_anchors) {
    cells.push_back(check_rows(op, each, "cell_anchors", "[A, 4]"));
    check_beside(op, truths, each, "cell_anchors");
  }
  for (int64_t size : grid_sizes)
    CHECK_ARG(size >= 0 && size < int64_t(1) << 24, op, ": expected grid_sizes in [0, 2^24), got ", size);
  std::tuple<Tensor, Tensor> result{truths, truths};
  with_coordinate_type(truths, [&](auto tag) {
    using C = decltype(tag);
    AnchorPyramid<C> anchors{{}, {0}, static_cast<int>(grids)};
    for (int64_t l = 0; l < grids; ++l) {
      anchors.grids[l] = {pointer<C>(cells[l]),           grid_sizes[2 * l],
                          grid_sizes[2 * l + 1],          cells[l].size(0),
                          static_cast<C>(strides[2 * l]), static_cast<C>(strides[2 * l + 1])};
      anchors.first[l + 1] = anchors.first[l] + anchors.grids[l].size();
    }
    result = match<C>(op, truths, anchors, high, low, allow_low_quality);
  });
  return result;
}

void register_kernels(torch::stable::detail::StableLibrary& m) {
  m.impl("match_boxes", TORCH_BOX(&match_boxes));
  m.impl("match_anchors", TORCH_BOX(&match_anchors));
}

}  // namespace
}  // namespace maskrcnn_ops

STABLE_TORCH_LIBRARY_IMPL(maskrcnn_ops, CPU, m) { maskrcnn_ops::register_kernels(m); }
STABLE_TORCH_LIBRARY_IMPL(maskrcnn_ops, CUDA, m) { maskrcnn_ops::register_kernels(m); }
