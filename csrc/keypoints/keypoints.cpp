#include "keypoints/keypoints.h"

#include <tuple>

#include "common/cuda.h"
#include "common/tensors.h"

namespace maskrcnn_ops {
namespace {

std::tuple<Tensor, Tensor> heatmaps_to_keypoints(const Tensor& heatmaps, const Tensor& boxes) {
  const char* op = "heatmaps_to_keypoints";
  CHECK_ARG(heatmaps.dim() == 4, op, ": expected heatmaps of shape [R, K, M, M], got ", shape_of(heatmaps));
  check_floating(heatmaps, op, "heatmaps");
  check_floating(boxes, op, "boxes");
  check_same_device(heatmaps, boxes, op, "heatmaps", "boxes");
  const Heatmaps args{heatmaps.size(0), heatmaps.size(1), heatmaps.size(2), heatmaps.size(3)};
  CHECK_ARG(boxes.dim() == 2 && boxes.size(0) == args.regions && boxes.size(1) == 4, op, ": expected boxes of shape [",
            args.regions, ", 4], got ", shape_of(boxes));
  CHECK_ARG(args.regions * args.keypoints == 0 || args.height * args.width > 0, op,
            ": expected heatmaps of at least one pixel, got ", shape_of(heatmaps));
  const ScalarType type = heatmaps.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  Tensor keypoints = empty(heatmaps, {args.regions, args.keypoints, 3}, type);
  Tensor scores = empty(heatmaps, {args.regions, args.keypoints}, type);
  if (scores.numel() == 0) return {keypoints, scores};
  const Tensor maps = as_contiguous(heatmaps);
  const Tensor converted = as_contiguous(boxes, type);
  with_element_type(maps, [&](auto element) {
    using T = decltype(element);
    if (on_cuda(maps))
      LAUNCH_CUDA(op, maps, heatmaps_to_keypoints_cuda<T>, pointer<T>(maps), pointer<Acc<T>>(converted),
                  mutable_pointer<Acc<T>>(keypoints), mutable_pointer<Acc<T>>(scores), args);
    else
      heatmaps_to_keypoints_cpu(pointer<T>(maps), pointer<Acc<T>>(converted), mutable_pointer<Acc<T>>(keypoints),
                                mutable_pointer<Acc<T>>(scores), args);
  });
  return {keypoints, scores};
}

void register_kernels(torch::stable::detail::StableLibrary& m) {
  m.impl("heatmaps_to_keypoints", TORCH_BOX(&heatmaps_to_keypoints));
}

}  // namespace
}  // namespace maskrcnn_ops

STABLE_TORCH_LIBRARY_IMPL(maskrcnn_ops, CPU, m) { maskrcnn_ops::register_kernels(m); }
STABLE_TORCH_LIBRARY_IMPL(maskrcnn_ops, CUDA, m) { maskrcnn_ops::register_kernels(m); }
