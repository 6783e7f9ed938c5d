#pragma once

// What the RoI pooling operators check and convert alike.

#include "common/maps.h"
#include "common/tensors.h"

namespace maskrcnn_ops {

MapStrides strides_of(const Tensor& map);

// Raises unless `input` is [N, C, H, W], `rois` [R, 5], both floating point and on one device, and the pooled size
// in range. Returns the RoIs contiguous and in the type that kernels accumulate in for these features: float32, or
// float64 for float64 features.
Tensor check_pooling(const char* op, const Tensor& input, const Tensor& rois, int64_t pooled_height,
                     int64_t pooled_width);
Tensor as_rois(const char* op, const Tensor& features, const Tensor& rois);
void check_pooled_size(const char* op, int64_t pooled_height, int64_t pooled_width);

// Raises for a finite image index outside [0, images), on the CPU; on CUDA, where nothing is read back unasked and such
// a RoI gives zeros, only with MASKRCNN_OPS_CHECK=1 in the environment. A RoI with a non-finite number gives zeros.
void check_image_indices(const char* op, const Tensor& rois, int64_t images);

}  // namespace maskrcnn_ops
