#pragma once

#include <cstdint>

#include "common/macros.h"

namespace maskrcnn_ops {

// Strides of a map [N, C, H, W], in elements; of pooled regions [R, C, P, P], with the RoI for the image.
struct MapStrides {
  int64_t image, channel, row, column;
};

template <class C>
HOST_DEVICE bool is_finite(C value) {
  return value - value == C(0);
}

}  // namespace maskrcnn_ops
