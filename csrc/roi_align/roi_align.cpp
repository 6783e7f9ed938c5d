#include "roi_align/roi_align.h"

#include <optional>
#include <tuple>
#include <vector>

#include "common/cuda.h"
#include "common/rois.h"

namespace maskrcnn_ops {
namespace {

using Doubles = std::vector<double>;

// What all calls share, of the regions and the options.
struct Call {
  Tensor boxes;
  std::optional<Tensor> levels;
  RoiAlign args;

  template <class C>
  Rois<C> rois() const {
    return {pointer<C>(boxes), levels ? pointer<int32_t>(*levels) : nullptr};
  }
};

// `level_rule` holds canonical scale, canonical level, epsilon, epsilon inside the logarithm, and the numbers of the
// finest and the coarsest level.
LevelRule rule_of(const char* op, const Doubles& numbers, int level_count, bool in_double) {
  LevelRule rule = {1, 0, 0, {}};
  if (level_count == 1) return rule;
  CHECK_ARG(numbers.size() == 6, op, ": expected level_rule of 6 numbers, got ", numbers.size());
  rule.canonical_scale = numbers[0];
  rule.epsilon_inside = numbers[3];
  const double span = numbers[5] - numbers[4];
  for (; rule.borders < level_count - 1 && rule.borders < span; ++rule.borders) {
    const double level = numbers[4] + rule.borders + 1;
    rule.border[rule.borders] = in_double ? first_side_of<double>(level, numbers[1], numbers[2])
                                          : first_side_of<float>(level, numbers[1], numbers[2]);
  }
  return rule;
}

// The given levels as int32; on the CPU each must exist, on CUDA a region of another gives zeros.
std::optional<Tensor> levels_of(const char* op, const std::optional<Tensor>& levels, const Tensor& boxes,
                                int64_t level_count) {
  if (!levels) return std::nullopt;
  const ScalarType type = levels->scalar_type();
  CHECK_ARG(type == ScalarType::Int || type == ScalarType::Long, op, ": expected levels of dtype int32 or int64, got ",
            type_of(*levels));
  check_same_device(boxes, *levels, op, "rois", "levels");
  CHECK_ARG(levels->dim() == 1 && levels->size(0) == boxes.size(0), op, ": expected levels of shape [", boxes.size(0),
            "], got ", shape_of(*levels));
  if (levels->is_cpu()) {
    const Tensor wide = as_contiguous(*levels, ScalarType::Long);
    const int64_t* values = pointer<int64_t>(wide);
    for (int64_t r = 0; r < wide.size(0); ++r)
      CHECK_ARG(values[r] >= 0 && values[r] < level_count, op, ": expected levels in [0, ", level_count, "), got ",
                values[r], " in row ", r);
  }
  return as_contiguous(*levels, ScalarType::Int);
}

struct Options {
  int64_t pooled_height, pooled_width, sampling_ratio;
  bool aligned, maximum;
};

// Sizes and strides of the levels are filled in by the caller.
Call call_of(const char* op, const Tensor& boxes, const std::optional<Tensor>& levels, const Doubles& spatial_scales,
             const Doubles& level_rule, int64_t images, int64_t channels, const Options& options) {
  const int64_t level_count = spatial_scales.size();
  const int64_t most = options.maximum ? 1024 : 65536;  // samples of a bin are counted in 32 bits
  CHECK_ARG(options.sampling_ratio <= most, op, ": expected sampling_ratio of at most ", most,
            options.maximum ? " for the maximum" : "", ", got ", options.sampling_ratio);
  RoiAlign args = {};
  args.images = images;
  args.rois = boxes.size(0);
  args.channels = static_cast<int>(channels);
  args.pooled_height = static_cast<int>(options.pooled_height);
  args.pooled_width = static_cast<int>(options.pooled_width);
  args.sampling_ratio = static_cast<int>(options.sampling_ratio > 0 ? options.sampling_ratio : 0);
  args.aligned = options.aligned;
  args.maximum = options.maximum;
  args.level_count = static_cast<int>(level_count);
  for (int l = 0; l < args.level_count; ++l) args.levels[l].spatial_scale = spatial_scales[l];
  args.rule = rule_of(op, level_rule, args.level_count, boxes.scalar_type() == ScalarType::Double);
  return {boxes, levels_of(op, levels, boxes, level_count), args};
}

// One level is `roi_align` for the user.
const char* name_of(size_t levels) { return levels == 1 ? "roi_align" : "multiscale_roi_align"; }

void check_level_count(const char* op, size_t features, size_t scales) {
  CHECK_ARG(features >= 1 && features <= most_levels, op, ": expected between 1 and ", most_levels, " maps, got ",
            features);
  CHECK_ARG(features == scales, op, ": expected as many spatial_scales as maps, got ", scales, " and ", features);
}

// Raises unless the other maps are like the first, which has been checked.
void check_levels(const char* op, const std::vector<Tensor>& features) {
  for (size_t l = 1; l < features.size(); ++l) {
    const Tensor &map = features[l], &first = features[0];
    CHECK_ARG(map.dim() == 4 && map.size(0) == first.size(0) && map.size(1) == first.size(1), op,
              ": expected features[", l, "] of shape [", first.size(0), ", ", first.size(1), ", H, W], got ",
              shape_of(map));
    CHECK_ARG(map.scalar_type() == first.scalar_type(), op, ": expected features[", l, "] of dtype ", type_of(first),
              ", got ", type_of(map));
    check_same_device(first, map, op, "features[0]", "the other maps");
    CHECK_ARG(map.size(2) < 1 << 29 && map.size(3) < 1 << 29, op, ": expected features with H and W below 2^29, got ",
              shape_of(map));
  }
}

template <class T>
Maps<const T> maps_of(const std::vector<Tensor>& features, RoiAlign& args) {
  Maps<const T> maps = {};
  for (int l = 0; l < args.level_count; ++l) {
    maps.level[l] = pointer<T>(features[l]);
    args.levels[l].height = static_cast<int>(features[l].size(2));
    args.levels[l].width = static_cast<int>(features[l].size(3));
    args.levels[l].strides = strides_of(features[l]);
  }
  return maps;
}

void check_winners(const char* op, bool maximum, int64_t height, int64_t width) {
  CHECK_ARG(!maximum || (2 * height + 8) * (2 * width + 8) <= INT32_MAX, op,
            ": expected maps of H * W below 2^29 for the maximum, got ", height, " * ", width);
}

Tensor empty_winners(const Tensor& output, bool maximum, bool channels_last) {
  if (!maximum) return empty(output, {0}, ScalarType::Int);
  return empty_map(output, sizes_of(output), channels_last, ScalarType::Int);
}

std::tuple<Tensor, Tensor> roi_align(const std::vector<Tensor>& features, const Tensor& rois,
                                     const std::optional<Tensor>& levels, const Doubles& spatial_scales,
                                     int64_t pooled_height, int64_t pooled_width, int64_t sampling_ratio, bool aligned,
                                     bool maximum, const Doubles& level_rule) {
  const char* op = name_of(features.size());
  check_level_count(op, features.size(), spatial_scales.size());
  const Tensor& first = features[0];
  const Tensor boxes = check_pooling(op, first, rois, pooled_height, pooled_width);
  check_levels(op, features);
  for (const Tensor& map : features) check_winners(op, maximum, map.size(2), map.size(3));
  Call call = call_of(op, boxes, levels, spatial_scales, level_rule, first.size(0), first.size(1),
                      {pooled_height, pooled_width, sampling_ratio, aligned, maximum});
  const bool channels_last = is_channels_last(first);
  Tensor output = empty_map(first, {boxes.size(0), first.size(1), pooled_height, pooled_width}, channels_last);
  Tensor winners = empty_winners(output, maximum, channels_last);
  if (output.numel() == 0) return {output, winners};
  if (first.size(0) == 0) return {torch::stable::zero_(output), torch::stable::fill_(winners, -1)};
  with_element_type(first, [&](auto element) {
    using T = decltype(element);
    const Maps<const T> maps = maps_of<T>(features, call.args);
    int32_t* const argmax = maximum ? mutable_pointer<int32_t>(winners) : nullptr;
    if (on_cuda(first))
      LAUNCH_CUDA(op, first, roi_align_cuda<T>, maps, call.rois<Acc<T>>(), mutable_pointer<T>(output), argmax,
                  strides_of(output), call.args);
    else roi_align_cpu<T>(maps, call.rois<Acc<T>>(), mutable_pointer<T>(output), argmax, strides_of(output), call.args);
  });
  return {output, winners};
}

// A gradient and its winners in one dense layout, so that one set of strides serves both.
struct Pooled {
  Tensor grad;
  std::optional<Tensor> winners;

  Pooled(const char* op, const Tensor& grad_output, const std::optional<Tensor>& argmax) {
    CHECK_ARG(grad_output.dim() == 4, op, ": expected grad_output of shape [R, C, P, P], got ", shape_of(grad_output));
    if (!argmax) {
      grad = as_dense(grad_output);
      return;
    }
    CHECK_ARG(argmax->scalar_type() == ScalarType::Int && shape_of(*argmax) == shape_of(grad_output), op,
              ": expected argmax of dtype int32 and shape ", shape_of(grad_output), ", got ", type_of(*argmax), " and ",
              shape_of(*argmax));
    check_same_device(grad_output, *argmax, op, "grad_output", "argmax");
    const bool keep = is_channels_last(grad_output) && is_channels_last(*argmax);
    grad = keep ? grad_output : as_contiguous(grad_output);
    winners = keep ? *argmax : as_contiguous(*argmax);
  }
  const int32_t* argmax() const { return winners ? pointer<int32_t>(*winners) : nullptr; }
};

std::vector<Tensor> roi_align_backward(const Tensor& grad_output, const std::optional<Tensor>& argmax,
                                       const Tensor& rois, const std::optional<Tensor>& levels,
                                       const Doubles& spatial_scales, int64_t sampling_ratio, bool aligned,
                                       const Doubles& level_rule, int64_t images, const std::vector<int64_t>& sizes,
                                       const std::vector<int64_t>& channels_last) {
  const char* op = "roi_align_backward";
  const Tensor boxes = as_rois(op, grad_output, rois);
  const Pooled pooled(op, grad_output, argmax);
  check_level_count(op, channels_last.size(), spatial_scales.size());
  CHECK_ARG(sizes.size() == 2 * channels_last.size(), op, ": expected sizes of two numbers a level, got ",
            sizes.size());
  CHECK_ARG(grad_output.size(0) == boxes.size(0), op, ": expected grad_output of ", boxes.size(0), " rois, got ",
            shape_of(grad_output));
  check_image_indices(op, boxes, images);
  const int64_t channels = grad_output.size(1);
  Call call = call_of(op, boxes, levels, spatial_scales, level_rule, images, channels,
                      {grad_output.size(2), grad_output.size(3), sampling_ratio, aligned, argmax.has_value()});
  std::vector<Tensor> gradients;
  int64_t elements = 0;
  for (size_t l = 0; l < channels_last.size(); ++l) {
    check_winners(op, argmax.has_value(), sizes[2 * l], sizes[2 * l + 1]);
    gradients.push_back(
        empty_map(pooled.grad, {images, channels, sizes[2 * l], sizes[2 * l + 1]}, channels_last[l] != 0));
    elements += gradients.back().numel();
  }
  if (elements == 0) return gradients;
  if (pooled.grad.numel() == 0) {
    for (Tensor& gradient : gradients) torch::stable::zero_(gradient);
    return gradients;
  }
  with_element_type(pooled.grad, [&](auto element) {
    using T = decltype(element);
    maps_of<T>(gradients, call.args);
    Maps<T> maps = {};
    for (size_t l = 0; l < gradients.size(); ++l) maps.level[l] = mutable_pointer<T>(gradients[l]);
    if (on_cuda(pooled.grad))
      LAUNCH_CUDA(op, pooled.grad, roi_align_backward_cuda<T>, pointer<T>(pooled.grad), pooled.argmax(),
                  strides_of(pooled.grad), call.rois<Acc<T>>(), maps, call.args);
    else
      roi_align_backward_cpu<T>(pointer<T>(pooled.grad), pooled.argmax(), strides_of(pooled.grad), call.rois<Acc<T>>(),
                                maps, call.args);
  });
  return gradients;
}

Tensor roi_align_backward_boxes(const Tensor& grad_output, const std::optional<Tensor>& argmax,
                                const std::vector<Tensor>& features, const Tensor& rois,
                                const std::optional<Tensor>& levels, const Doubles& spatial_scales,
                                int64_t sampling_ratio, bool aligned, const Doubles& level_rule) {
  const char* op = "roi_align_backward_boxes";
  check_level_count(op, features.size(), spatial_scales.size());
  const Tensor& first = features[0];
  const Pooled pooled(op, grad_output, argmax);
  const Tensor boxes = check_pooling(op, first, rois, grad_output.size(2), grad_output.size(3));
  check_levels(op, features);
  check_same_device(first, grad_output, op, "features", "grad_output");
  CHECK_ARG(grad_output.size(0) == boxes.size(0) && grad_output.size(1) == first.size(1) &&
                grad_output.scalar_type() == first.scalar_type(),
            op, ": expected grad_output of shape [", boxes.size(0), ", ", first.size(1), ", P, P] and dtype ",
            type_of(first), ", got ", shape_of(grad_output), " and ", type_of(grad_output));
  CHECK_ARG(sampling_ratio > 0 && sampling_ratio <= 1024, op, ": expected sampling_ratio between 1 and 1024, got ",
            sampling_ratio);
  Call call = call_of(op, boxes, levels, spatial_scales, level_rule, first.size(0), first.size(1),
                      {grad_output.size(2), grad_output.size(3), sampling_ratio, aligned, argmax.has_value()});
  Tensor grad_rois = empty(boxes, {boxes.size(0), 5});
  if (grad_rois.numel() == 0) return grad_rois;
  if (pooled.grad.numel() == 0 || first.size(0) == 0) return torch::stable::zero_(grad_rois);
  with_element_type(first, [&](auto element) {
    using T = decltype(element);
    const Maps<const T> maps = maps_of<T>(features, call.args);
    if (on_cuda(first))
      LAUNCH_CUDA(op, first, roi_align_backward_boxes_cuda<T>, pointer<T>(pooled.grad), pooled.argmax(),
                  strides_of(pooled.grad), maps, call.rois<Acc<T>>(), mutable_pointer<Acc<T>>(grad_rois), call.args);
    else
      roi_align_backward_boxes_cpu<T>(pointer<T>(pooled.grad), pooled.argmax(), strides_of(pooled.grad), maps,
                                      call.rois<Acc<T>>(), mutable_pointer<Acc<T>>(grad_rois), call.args);
  });
  return grad_rois;
}

void register_kernels(torch::stable::detail::StableLibrary& m) {
  m.impl("roi_align", TORCH_BOX(&roi_align));
  m.impl("roi_align_backward", TORCH_BOX(&roi_align_backward));
  m.impl("roi_align_backward_boxes", TORCH_BOX(&roi_align_backward_boxes));
}

}  // namespace
}  // namespace maskrcnn_ops

STABLE_TORCH_LIBRARY_IMPL(maskrcnn_ops, CPU, m) { maskrcnn_ops::register_kernels(m); }
STABLE_TORCH_LIBRARY_IMPL(maskrcnn_ops, CUDA, m) { maskrcnn_ops::register_kernels(m); }
