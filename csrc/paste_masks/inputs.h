#pragma once

// What the operators on M x M masks in boxes check alike.

#include "common/tensors.h"
#include "paste_masks/paste_masks.h"

namespace maskrcnn_ops {
namespace paste_inputs {

constexpr int64_t most = 1 << 30;  // pixels of an image's side: int32 arithmetic on pixels cannot overflow

// Checked inputs, contiguous, boxes in float32 or float64.
struct Inputs {
  Tensor masks, boxes;
  PasteMasks args;
};

inline Tensor check_boxes(const char* op, const Tensor& boxes, const Tensor& like, const char* like_name) {
  CHECK_ARG(boxes.dim() == 2 && boxes.size(1) == 4, op, ": expected boxes of shape [D, 4], got ", shape_of(boxes));
  CHECK_ARG(boxes.size(0) == like.size(0), op, ": expected as many boxes as ", like_name, ", got ", boxes.size(0),
            " and ", like.size(0));
  check_same_device(like, boxes, op, like_name, "boxes");
  return as_coordinates(boxes, op, "boxes");
}

inline Inputs check_inputs(const char* op, const Tensor& masks, const Tensor& boxes, int64_t height, int64_t width,
                           bool integer) {
  CHECK_ARG(masks.dim() == 3, op, ": expected masks of shape [D, M, M] or [D, 1, M, M], got ", shape_of(masks));
  check_floating(masks, op, "masks");
  CHECK_ARG(height >= 0 && width >= 0 && height <= most && width <= most, op,
            ": expected image_size (H, W) between (0, 0) and (2^30, 2^30), got (", height, ", ", width, ")");
  CHECK_ARG(masks.size(1) <= most && masks.size(2) <= most, op, ": expected masks with sides of at most 2^30, got ",
            shape_of(masks));
  const Tensor coordinates = check_boxes(op, boxes, masks, "masks");
  return {as_contiguous(masks),
          coordinates,
          {masks.size(0), static_cast<int>(masks.size(1)), static_cast<int>(masks.size(2)), static_cast<int>(height),
           static_cast<int>(width), integer}};
}

// Calls function(T{}, C{}) with the kernels' types of the values and of the boxes.
template <class Function>
void with_types(const Tensor& values, const Tensor& boxes, const Function& function) {
  with_element_type(values, [&](auto element) {
    with_coordinate_type(boxes, [&](auto coordinate) { function(element, coordinate); });
  });
}

}  // namespace paste_inputs
}  // namespace maskrcnn_ops
