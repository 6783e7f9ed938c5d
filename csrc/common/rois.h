#pragma once

// What the RoI pooling operators check and convert alike.

#include <tuple>

#include "common/maps.h"
#include "common/tensors.h"

namespace maskrcnn_ops {

MapStrides strides_of(const Tensor& map);

// Raises unless `input` is [N, C, H, W], `rois` [R, 5], both floating point and on one device, and the pooled size
// positive. Returns the RoIs as coordinates: contiguous float32 or float64.
Tensor check_pooling(const char* op, const Tensor& input, const Tensor& rois, int64_t pooled_height,
                     int64_t pooled_width);

// Raises for an image index outside [0, images). Reads `rois`, which must lie on the CPU.
void check_image_indices(const char* op, const Tensor& rois, int64_t images);

}  // namespace maskrcnn_ops
