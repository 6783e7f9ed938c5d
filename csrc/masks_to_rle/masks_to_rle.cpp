#include "masks_to_rle/masks_to_rle.h"

#include <cstring>
#include <tuple>

#include "common/cuda.h"
#include "paste_masks/inputs.h"

namespace maskrcnn_ops {
namespace {

using Runs = std::tuple<Tensor, Tensor>;  // counts, offsets

Tensor empty_longs(int64_t size, const Tensor& like) { return empty(like, {size}, ScalarType::Long); }

Runs gather(const std::vector<std::vector<int64_t>>& runs) {
  int64_t total = 0;
  for (const auto& each : runs) total += static_cast<int64_t>(each.size());
  Tensor counts = torch::stable::empty({total}, ScalarType::Long);
  Tensor offsets = torch::stable::empty({static_cast<int64_t>(runs.size()) + 1}, ScalarType::Long);
  auto* count = mutable_pointer<int64_t>(counts);
  auto* offset = mutable_pointer<int64_t>(offsets);
  *offset = 0;
  for (const auto& each : runs) {
    if (!each.empty()) std::memcpy(count, each.data(), sizeof(int64_t) * each.size());
    count += each.size();
    offset[1] = offset[0] + static_cast<int64_t>(each.size());
    ++offset;
  }
  return {counts, offsets};
}

// Masks without cells, or an image without pixels: every pixel has probability zero.
Runs constant(const Tensor& masks, int64_t pixels, double threshold) {
  std::vector<int64_t> runs{pixels};
  if (0 > threshold && pixels > 0) runs.insert(runs.begin(), 0);
  const Runs made = gather(std::vector<std::vector<int64_t>>(masks.size(0), runs));
  if (masks.is_cpu()) return made;
  return {torch::stable::to(std::get<0>(made), masks.device()), torch::stable::to(std::get<1>(made), masks.device())};
}

Runs masks_to_rle(const Tensor& masks, const Tensor& boxes, int64_t height, int64_t width, double threshold,
                  bool integer) {
  const char* op = "masks_to_rle";
  const auto in = paste_inputs::check_inputs(op, masks, boxes, height, width, integer);
  CHECK_ARG(threshold == threshold, op, ": expected threshold to be a number, got nan");
  if (masks.numel() == 0 || height * width == 0) return constant(masks, height * width, threshold);
  if (!on_cuda(masks)) {
    std::vector<std::vector<int64_t>> runs(masks.size(0));
    paste_inputs::with_types(in.masks, in.boxes, [&](auto element, auto coordinate) {
      using T = decltype(element);
      using C = decltype(coordinate);
      masks_to_rle_cpu(pointer<T>(in.masks), pointer<C>(in.boxes), runs.data(), static_cast<Acc<T>>(threshold),
                       in.args);
    });
    return gather(runs);
  }
  const int64_t count = masks.size(0);
  const Tensor starts = empty_longs(count * width, masks), work = empty_longs(count, masks);
  Tensor offsets = empty_longs(count + 1, masks);
  Tensor counts = offsets;
  paste_inputs::with_types(in.masks, in.boxes, [&](auto element, auto coordinate) {
    using T [[maybe_unused]] = decltype(element);  // in a build without CUDA
    using C [[maybe_unused]] = decltype(coordinate);
    LAUNCH_CUDA(op, masks, (count_runs_cuda<T, C>), pointer<T>(in.masks), pointer<C>(in.boxes),
                mutable_pointer<int64_t>(starts), mutable_pointer<int64_t>(work), mutable_pointer<int64_t>(offsets),
                static_cast<Acc<T>>(threshold), in.args);
    // The one read-back: how many runs there are.
    const torch::stable::Device cpu(torch::headeronly::DeviceType::CPU);
    const Tensor total = torch::stable::to(torch::stable::narrow(offsets, 0, count, 1), cpu);
    counts = empty_longs(*pointer<int64_t>(total), masks);
    const Tensor ends = empty_longs(counts.size(0), masks);
    LAUNCH_CUDA(op, masks, (write_runs_cuda<T, C>), pointer<T>(in.masks), pointer<C>(in.boxes),
                pointer<int64_t>(starts), pointer<int64_t>(offsets), mutable_pointer<int64_t>(ends),
                mutable_pointer<int64_t>(counts), static_cast<Acc<T>>(threshold), in.args);
  });
  return {counts, offsets};
}

}  // namespace
}  // namespace maskrcnn_ops

STABLE_TORCH_LIBRARY_IMPL(maskrcnn_ops, CPU, m) { m.impl("masks_to_rle", TORCH_BOX(&maskrcnn_ops::masks_to_rle)); }
STABLE_TORCH_LIBRARY_IMPL(maskrcnn_ops, CUDA, m) { m.impl("masks_to_rle", TORCH_BOX(&maskrcnn_ops::masks_to_rle)); }
