// Every operator's schema, and nothing else.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/macros.h>

STABLE_TORCH_LIBRARY(maskrcnn_ops, m) {
  m.def(
      "roi_align(Tensor[] features, Tensor rois, Tensor? levels, float[] spatial_scales, SymInt pooled_height, "
      "SymInt pooled_width, int sampling_ratio, bool aligned, bool maximum, float[] level_rule) -> (Tensor, Tensor)");
  m.def(
      "roi_align_backward(Tensor grad_output, Tensor? argmax, Tensor rois, Tensor? levels, float[] spatial_scales, "
      "int sampling_ratio, bool aligned, float[] level_rule, SymInt images, SymInt[] sizes, int[] channels_last) "
      "-> Tensor[]");
  m.def(
      "roi_align_backward_boxes(Tensor grad_output, Tensor? argmax, Tensor[] features, Tensor rois, Tensor? levels, "
      "float[] spatial_scales, int sampling_ratio, bool aligned, float[] level_rule) -> Tensor");
  m.def("encode_boxes(Tensor reference_boxes, Tensor proposals, float[] weights) -> Tensor");
  m.def(
      "encode_boxes_backward(Tensor grad_deltas, Tensor reference_boxes, Tensor proposals, float[] weights) "
      "-> (Tensor, Tensor)");
  m.def("decode_boxes(Tensor deltas, Tensor anchors, float[] weights, float clip) -> Tensor");
  m.def(
      "decode_boxes_backward(Tensor grad_boxes, Tensor deltas, Tensor anchors, float[] weights, float clip) "
      "-> Tensor");
  m.def(
      "decode_boxes_backward_anchors(Tensor grad_boxes, Tensor deltas, Tensor anchors, float[] weights, float clip) "
      "-> Tensor");
  m.def(
      "decode_grid(Tensor deltas, Tensor cell_anchors, SymInt height, SymInt width, float stride_y, float stride_x, "
      "float[] weights, float clip) -> Tensor");
  m.def(
      "decode_grid_backward(Tensor grad_boxes, Tensor deltas, Tensor cell_anchors, SymInt height, SymInt width, "
      "float stride_y, float stride_x, float[] weights, float clip) -> Tensor");
  m.def(
      "roi_pool(Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height, SymInt pooled_width) "
      "-> (Tensor, Tensor)");
  m.def(
      "roi_pool_backward(Tensor grad_output, Tensor argmax, Tensor rois, float spatial_scale, SymInt pooled_height, "
      "SymInt pooled_width, SymInt images, SymInt channels, SymInt height, SymInt width, bool channels_last) -> "
      "Tensor");
  m.def(
      "ps_roi_align(Tensor input, Tensor rois, float spatial_scale, int sampling_ratio, SymInt pooled_height, "
      "SymInt pooled_width) -> Tensor");
  m.def(
      "ps_roi_align_backward(Tensor grad_output, Tensor rois, float spatial_scale, int sampling_ratio, SymInt images, "
      "SymInt height, SymInt width, bool channels_last) -> Tensor");
  m.def(
      "ps_roi_pool(Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height, SymInt pooled_width) "
      "-> Tensor");
  m.def(
      "ps_roi_pool_backward(Tensor grad_output, Tensor rois, float spatial_scale, SymInt images, SymInt height, "
      "SymInt width, bool channels_last) -> Tensor");
  m.def(
      "nms(Tensor boxes, Tensor scores, Tensor? idxs, float iou_threshold, Tensor? image_idxs=None, "
      "float? score_threshold=None, int? max_output=None, bool fast=False) -> Tensor");
  m.def(
      "padded_nms(Tensor boxes, Tensor scores, Tensor? classes, Tensor? counts, float iou_threshold, "
      "float? score_threshold, SymInt max_output) -> (Tensor, Tensor)");
  m.def(
      "soft_nms(Tensor boxes, Tensor scores, Tensor? idxs, float iou_threshold, float sigma, float score_threshold, "
      "bool gaussian) -> (Tensor, Tensor)");
  m.def("box_iou(Tensor boxes1, Tensor boxes2) -> Tensor");
  m.def("generalized_box_iou(Tensor boxes1, Tensor boxes2) -> Tensor");
  m.def("box_iou_backward(Tensor grad, Tensor boxes, Tensor others, bool generalized) -> Tensor");
  m.def(
      "decode_anchors(Tensor[] objectness, Tensor[] deltas, Tensor[] cell_anchors, float[] strides, "
      "Tensor image_sizes, SymInt top_k, float min_size, float score_threshold, float[] weights, float clip) "
      "-> (Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "match_boxes(Tensor gt_boxes, Tensor boxes, float high, float low, bool allow_low_quality) "
      "-> (Tensor, Tensor)");
  m.def(
      "match_anchors(Tensor gt_boxes, Tensor[] cell_anchors, SymInt[] grid_sizes, float[] strides, float high, "
      "float low, bool allow_low_quality) -> (Tensor, Tensor)");
  m.def("masks_to_boxes(Tensor masks) -> Tensor");
  m.def("heatmaps_to_keypoints(Tensor heatmaps, Tensor boxes) -> (Tensor, Tensor)");
  m.def(
      "paste_masks(Tensor masks, Tensor boxes, SymInt height, SymInt width, float threshold, bool integer) -> Tensor");
  m.def("paste_probabilities(Tensor masks, Tensor boxes, SymInt height, SymInt width, bool integer) -> Tensor");
  m.def(
      "paste_probabilities_backward(Tensor grad_output, Tensor boxes, SymInt mask_height, SymInt mask_width, "
      "bool integer) -> Tensor");
  m.def(
      "masks_to_rle(Tensor masks, Tensor boxes, SymInt height, SymInt width, float threshold, bool integer) "
      "-> (Tensor, Tensor)");
  m.def("crop_masks(Tensor masks, Tensor rois, SymInt pooled_height, SymInt pooled_width, bool aligned) -> Tensor");
  m.def(
      "crop_runs(Tensor ends, Tensor offsets, SymInt height, SymInt width, Tensor rois, SymInt pooled_height, "
      "SymInt pooled_width, bool aligned) -> Tensor");
  m.def(
      "rasterize_polygons(Tensor points, Tensor rings, Tensor objects, SymInt height, SymInt width, Tensor rois, "
      "SymInt pooled_height, SymInt pooled_width, bool aligned) -> Tensor");
}
