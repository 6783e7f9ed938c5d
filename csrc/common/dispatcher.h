#pragma once

// Torch operators that the stable ABI has no function for, called by name. Everything of that kind stands here, to be
// deleted as the ABI grows.

#include "common/tensors.h"

namespace maskrcnn_ops {

// Indices int64 that sort each row of values [..., L]; equal values keep their order.
Tensor stable_argsort(const Tensor& values, bool descending);

// values[indices], along the first dimension.
Tensor take(const Tensor& values, const Tensor& indices);

}  // namespace maskrcnn_ops
