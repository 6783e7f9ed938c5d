#include "masks_to_boxes/masks_to_boxes.h"

#include "common/cuda.h"
#include "common/tensors.h"

namespace maskrcnn_ops {
namespace {

// Calls function(significant) with the unsigned number that tells a non-zero element of the tensor (see the header).
template <class Function>
void with_significant_bits(const Tensor& masks, const Function& function) {
  switch (masks.scalar_type()) {
    case ScalarType::Bool:
    case ScalarType::Byte:
    case ScalarType::Char: return function(uint8_t(0xff));
    case ScalarType::UInt16:
    case ScalarType::Short: return function(uint16_t(0xffff));
    case ScalarType::Half:
    case ScalarType::BFloat16: return function(uint16_t(0x7fff));
    case ScalarType::UInt32:
    case ScalarType::Int: return function(~uint32_t(0));
    case ScalarType::Float: return function(~uint32_t(0) >> 1);
    case ScalarType::UInt64:
    case ScalarType::Long: return function(~uint64_t(0));
    case ScalarType::Double: return function(~uint64_t(0) >> 1);
    default:
      CHECK_ARG(false, "masks_to_boxes: expected masks of a boolean, integer or floating-point dtype, got ",
                type_of(masks));
  }
}

Tensor masks_to_boxes(const Tensor& masks) {
  CHECK_ARG(masks.dim() == 3, "masks_to_boxes: expected masks of shape [L, H, W], got ", shape_of(masks));
  const MaskStack stack{masks.size(0), masks.size(1), masks.size(2)};
  Tensor boxes = empty(masks, {stack.masks, 4}, ScalarType::Float);
  with_significant_bits(masks, [&](auto significant) {
    using U = decltype(significant);
    if (boxes.numel() == 0) return;
    if (masks.numel() == 0) {
      torch::stable::zero_(boxes);
      return;
    }
    const Tensor dense = as_contiguous(masks);
    if (on_cuda(masks)) {
      Tensor bands = empty(masks, {Bands{stack, cuda_band_rows}.count(), 4}, ScalarType::Long);
      LAUNCH_CUDA("masks_to_boxes", masks, masks_to_boxes_cuda<U>, pointer<U>(dense), significant,
                  mutable_pointer<float>(boxes), mutable_pointer<PixelBox>(bands), stack);
    } else {
      masks_to_boxes_cpu(pointer<U>(dense), significant, mutable_pointer<float>(boxes), stack);
    }
  });
  return boxes;
}

void register_kernels(torch::stable::detail::StableLibrary& m) { m.impl("masks_to_boxes", TORCH_BOX(&masks_to_boxes)); }

}  // namespace
}  // namespace maskrcnn_ops

STABLE_TORCH_LIBRARY_IMPL(maskrcnn_ops, CPU, m) { maskrcnn_ops::register_kernels(m); }
STABLE_TORCH_LIBRARY_IMPL(maskrcnn_ops, CUDA, m) { maskrcnn_ops::register_kernels(m); }
