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

// The image that a RoI's index names; -1 if there is none.
template <class C>
HOST_DEVICE int64_t image_of(C index, int64_t images) {
  return index >= C(0) && index < static_cast<C>(images) ? static_cast<int64_t>(index) : -1;
}

}  // namespace maskrcnn_ops
