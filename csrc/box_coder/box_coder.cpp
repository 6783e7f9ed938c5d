#include "box_coder/box_coder.h"

#include <tuple>
#include <vector>

#include "common/cuda.h"
#include "common/tensors.h"

namespace maskrcnn_ops {
namespace {

// float32 or float64 on one device and of one dtype; the Python face widens and promotes. Contiguous.
Tensor coordinates(const char* op, const Tensor& tensor, const char* name, const Tensor& like, const char* like_name) {
  const Tensor result = as_coordinates(tensor, op, name);
  check_floating(like, op, like_name);
  check_same_device(like, tensor, op, like_name, name);
  CHECK_ARG(tensor.scalar_type() == like.scalar_type() && result.scalar_type() == tensor.scalar_type(), op,
            ": expected ", like_name, " and ", name, " both float32 or both float64, got ", type_of(like), " and ",
            type_of(tensor));
  return result;
}

void check_rows(const char* op, const Tensor& tensor, const char* name, const char* shape) {
  CHECK_ARG(tensor.dim() == 2 && tensor.size(1) == 4, op, ": expected ", name, " of shape ", shape, ", got ",
            shape_of(tensor));
}

void check_shape_like(const char* op, const Tensor& tensor, const char* name, const Tensor& like) {
  CHECK_ARG(shape_of(tensor) == shape_of(like), op, ": expected ", name, " of shape ", shape_of(like), ", got ",
            shape_of(tensor));
}

template <class C>
BoxCoder<C> coder_of(const char* op, const std::vector<double>& weights, double clip = 0) {
  CHECK_ARG(weights.size() == 4, op, ": expected weights of 4 numbers (dx, dy, dw, dh), got ", weights.size());
  return {
      {static_cast<C>(weights[0]), static_cast<C>(weights[1]), static_cast<C>(weights[2]), static_cast<C>(weights[3])},
      static_cast<C>(clip)};
}

struct EncodeInputs {
  Tensor boxes, anchors;
};

EncodeInputs check_encode(const char* op, const Tensor& reference_boxes, const Tensor& proposals) {
  check_rows(op, reference_boxes, "reference_boxes", "[L, 4]");
  check_rows(op, proposals, "proposals", "[L, 4]");
  CHECK_ARG(reference_boxes.size(0) == proposals.size(0), op, ": expected as many reference_boxes as proposals, got ",
            reference_boxes.size(0), " and ", proposals.size(0));
  return {coordinates(op, reference_boxes, "reference_boxes", proposals, "proposals"),
          coordinates(op, proposals, "proposals", reference_boxes, "reference_boxes")};
}

Tensor encode_boxes(const Tensor& reference_boxes, const Tensor& proposals, const std::vector<double>& weights) {
  const char* op = "encode_boxes";
  const auto [boxes, anchors] = check_encode(op, reference_boxes, proposals);
  Tensor deltas = empty(boxes, {boxes.size(0), 4});
  with_coordinate_type(boxes, [&, &boxes = boxes, &anchors = anchors](auto tag) {
    using C = decltype(tag);
    const BoxCoder<C> coder = coder_of<C>(op, weights);
    if (deltas.numel() == 0) return;
    if (on_cuda(boxes))
      LAUNCH_CUDA(op, boxes, encode_boxes_cuda<C>, pointer<C>(boxes), pointer<C>(anchors), mutable_pointer<C>(deltas),
                  boxes.size(0), coder);
    else encode_boxes_cpu(pointer<C>(boxes), pointer<C>(anchors), mutable_pointer<C>(deltas), boxes.size(0), coder);
  });
  return deltas;
}

std::tuple<Tensor, Tensor> encode_boxes_backward(const Tensor& grad_deltas, const Tensor& reference_boxes,
                                                 const Tensor& proposals, const std::vector<double>& weights) {
  const char* op = "encode_boxes_backward";
  const auto [boxes, anchors] = check_encode(op, reference_boxes, proposals);
  const Tensor grad = coordinates(op, grad_deltas, "grad_deltas", boxes, "reference_boxes");
  check_shape_like(op, grad, "grad_deltas", boxes);
  Tensor grad_boxes = empty(boxes, {boxes.size(0), 4});
  Tensor grad_anchors = empty(boxes, {boxes.size(0), 4});
  with_coordinate_type(boxes, [&, &boxes = boxes, &anchors = anchors](auto tag) {
    using C = decltype(tag);
    const BoxCoder<C> coder = coder_of<C>(op, weights);
    if (grad.numel() == 0) return;
    if (on_cuda(boxes))
      LAUNCH_CUDA(op, boxes, encode_boxes_backward_cuda<C>, pointer<C>(grad), pointer<C>(boxes), pointer<C>(anchors),
                  mutable_pointer<C>(grad_boxes), mutable_pointer<C>(grad_anchors), boxes.size(0), coder);
    else
      encode_boxes_backward_cpu(pointer<C>(grad), pointer<C>(boxes), pointer<C>(anchors),
                                mutable_pointer<C>(grad_boxes), mutable_pointer<C>(grad_anchors), boxes.size(0), coder);
  });
  return {grad_boxes, grad_anchors};
}

// Deltas and anchors of one decode, whatever the kind of anchors: contiguous, of one dtype.
struct DecodeInputs {
  Tensor deltas, anchors;
};

DecodeInputs check_decode(const char* op, const Tensor& deltas, const Tensor& anchors) {
  CHECK_ARG(deltas.dim() == 2 && deltas.size(1) > 0 && deltas.size(1) % 4 == 0, op,
            ": expected deltas of shape [L, 4] or [L, K * 4], got ", shape_of(deltas));
  check_rows(op, anchors, "anchors", "[L, 4]");
  CHECK_ARG(deltas.size(0) == anchors.size(0), op, ": expected as many rows of deltas as anchors, got ", deltas.size(0),
            " and ", anchors.size(0));
  return {coordinates(op, deltas, "deltas", anchors, "anchors"), coordinates(op, anchors, "anchors", deltas, "deltas")};
}

DecodeInputs check_decode_grid(const char* op, const Tensor& deltas, const Tensor& cell_anchors, int64_t height,
                               int64_t width) {
  check_rows(op, cell_anchors, "cell_anchors", "[A, 4]");
  CHECK_ARG(height >= 0 && width >= 0, op, ": expected grid_size of at least (0, 0), got (", height, ", ", width, ")");
  const int64_t anchors = cell_anchors.size(0);
  // Nested, so that a huge grid_size cannot overflow the product.
  const bool fits = deltas.dim() == 3 && deltas.size(2) == 4 &&
                    (height == 0 || width == 0 || anchors == 0
                         ? deltas.size(1) == 0
                         : deltas.size(1) % anchors == 0 && deltas.size(1) / anchors % width == 0 &&
                               deltas.size(1) / anchors / width == height);
  CHECK_ARG(fits, op, ": expected deltas of shape [N, H * W * A, 4] with (H, W) = (", height, ", ", width,
            ") and A = ", anchors, ", got ", shape_of(deltas));
  return {coordinates(op, deltas, "deltas", cell_anchors, "cell_anchors"),
          coordinates(op, cell_anchors, "cell_anchors", deltas, "deltas")};
}

template <class C, class Anchors>
void launch_decode(const char* op, const Tensor& deltas, const Anchors& anchors, Tensor& boxes,
                   const BoxCoder<C>& coder) {
  const int64_t count = deltas.numel() / 4;
  if (count == 0) return;
  if (on_cuda(deltas))
    LAUNCH_CUDA(op, deltas, (decode_boxes_cuda<C, Anchors>), pointer<C>(deltas), anchors, mutable_pointer<C>(boxes),
                count, coder);
  else decode_boxes_cpu(pointer<C>(deltas), anchors, mutable_pointer<C>(boxes), count, coder);
}

template <class C, class Anchors>
void launch_decode_backward(const char* op, const Tensor& grad_boxes, const Tensor& deltas, const Anchors& anchors,
                            Tensor& grad_deltas, const BoxCoder<C>& coder) {
  const int64_t count = deltas.numel() / 4;
  if (count == 0) return;
  if (on_cuda(deltas))
    LAUNCH_CUDA(op, deltas, (decode_boxes_backward_cuda<C, Anchors>), pointer<C>(grad_boxes), pointer<C>(deltas),
                anchors, mutable_pointer<C>(grad_deltas), count, coder);
  else
    decode_boxes_backward_cpu(pointer<C>(grad_boxes), pointer<C>(deltas), anchors, mutable_pointer<C>(grad_deltas),
                              count, coder);
}

Tensor decode_boxes(const Tensor& deltas, const Tensor& anchors, const std::vector<double>& weights, double clip) {
  const char* op = "decode_boxes";
  const DecodeInputs in = check_decode(op, deltas, anchors);
  Tensor boxes = empty(in.deltas, {in.deltas.size(0), in.deltas.size(1)});
  with_coordinate_type(in.deltas, [&](auto tag) {
    using C = decltype(tag);
    const StoredAnchors<C> stored{pointer<C>(in.anchors), in.deltas.size(1) / 4};
    launch_decode(op, in.deltas, stored, boxes, coder_of<C>(op, weights, clip));
  });
  return boxes;
}

Tensor decode_boxes_backward(const Tensor& grad_boxes, const Tensor& deltas, const Tensor& anchors,
                             const std::vector<double>& weights, double clip) {
  const char* op = "decode_boxes_backward";
  const DecodeInputs in = check_decode(op, deltas, anchors);
  const Tensor grad = coordinates(op, grad_boxes, "grad_boxes", in.deltas, "deltas");
  check_shape_like(op, grad, "grad_boxes", in.deltas);
  Tensor grad_deltas = empty(in.deltas, {in.deltas.size(0), in.deltas.size(1)});
  with_coordinate_type(in.deltas, [&](auto tag) {
    using C = decltype(tag);
    const StoredAnchors<C> stored{pointer<C>(in.anchors), in.deltas.size(1) / 4};
    launch_decode_backward(op, grad, in.deltas, stored, grad_deltas, coder_of<C>(op, weights, clip));
  });
  return grad_deltas;
}

Tensor decode_boxes_backward_anchors(const Tensor& grad_boxes, const Tensor& deltas, const Tensor& anchors,
                                     const std::vector<double>& weights, double clip) {
  const char* op = "decode_boxes_backward_anchors";
  const DecodeInputs in = check_decode(op, deltas, anchors);
  const Tensor grad = coordinates(op, grad_boxes, "grad_boxes", in.deltas, "deltas");
  check_shape_like(op, grad, "grad_boxes", in.deltas);
  Tensor grad_anchors = empty(in.anchors, {in.anchors.size(0), 4});
  with_coordinate_type(in.deltas, [&](auto tag) {
    using C = decltype(tag);
    const BoxCoder<C> coder = coder_of<C>(op, weights, clip);
    const int64_t rows = in.anchors.size(0), classes = in.deltas.size(1) / 4;
    if (rows == 0) return;
    if (on_cuda(grad))
      LAUNCH_CUDA(op, grad, decode_boxes_backward_anchors_cuda<C>, pointer<C>(grad), pointer<C>(in.deltas),
                  mutable_pointer<C>(grad_anchors), rows, classes, coder);
    else
      decode_boxes_backward_anchors_cpu(pointer<C>(grad), pointer<C>(in.deltas), mutable_pointer<C>(grad_anchors), rows,
                                        classes, coder);
  });
  return grad_anchors;
}

template <class C>
GridAnchors<C> grid_of_anchors(const Tensor& cell_anchors, int64_t height, int64_t width, double stride_y,
                               double stride_x) {
  return {pointer<C>(cell_anchors), height, width, cell_anchors.size(0), static_cast<C>(stride_y),
          static_cast<C>(stride_x)};
}

Tensor decode_grid(const Tensor& deltas, const Tensor& cell_anchors, int64_t height, int64_t width, double stride_y,
                   double stride_x, const std::vector<double>& weights, double clip) {
  const char* op = "decode_grid";
  const DecodeInputs in = check_decode_grid(op, deltas, cell_anchors, height, width);
  Tensor boxes = empty(in.deltas, {in.deltas.size(0), in.deltas.size(1), 4});
  with_coordinate_type(in.deltas, [&](auto tag) {
    using C = decltype(tag);
    launch_decode(op, in.deltas, grid_of_anchors<C>(in.anchors, height, width, stride_y, stride_x), boxes,
                  coder_of<C>(op, weights, clip));
  });
  return boxes;
}

Tensor decode_grid_backward(const Tensor& grad_boxes, const Tensor& deltas, const Tensor& cell_anchors, int64_t height,
                            int64_t width, double stride_y, double stride_x, const std::vector<double>& weights,
                            double clip) {
  const char* op = "decode_grid_backward";
  const DecodeInputs in = check_decode_grid(op, deltas, cell_anchors, height, width);
  const Tensor grad = coordinates(op, grad_boxes, "grad_boxes", in.deltas, "deltas");
  check_shape_like(op, grad, "grad_boxes", in.deltas);
  Tensor grad_deltas = empty(in.deltas, {in.deltas.size(0), in.deltas.size(1), 4});
  with_coordinate_type(in.deltas, [&](auto tag) {
    using C = decltype(tag);
    launch_decode_backward(op, grad, in.deltas, grid_of_anchors<C>(in.anchors, height, width, stride_y, stride_x),
                           grad_deltas, coder_of<C>(op, weights, clip));
  });
  return grad_deltas;
}

void register_kernels(torch::stable::detail::StableLibrary& m) {
  m.impl("encode_boxes", TORCH_BOX(&encode_boxes));
  m.impl("encode_boxes_backward", TORCH_BOX(&encode_boxes_backward));
  m.impl("decode_boxes", TORCH_BOX(&decode_boxes));
  m.impl("decode_boxes_backward", TORCH_BOX(&decode_boxes_backward));
  m.impl("decode_boxes_backward_anchors", TORCH_BOX(&decode_boxes_backward_anchors));
  m.impl("decode_grid", TORCH_BOX(&decode_grid));
  m.impl("decode_grid_backward", TORCH_BOX(&decode_grid_backward));
}

}  // namespace
}  // namespace maskrcnn_ops

STABLE_TORCH_LIBRARY_IMPL(maskrcnn_ops, CPU, m) { maskrcnn_ops::register_kernels(m); }
STABLE_TORCH_LIBRARY_IMPL(maskrcnn_ops, CUDA, m) { maskrcnn_ops::register_kernels(m); }
