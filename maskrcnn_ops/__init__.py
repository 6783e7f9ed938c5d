"""Region operators for PyTorch with hand-written CPU and CUDA kernels; a drop-in for ``torchvision.ops``."""

import sys

from maskrcnn_ops._library import load
from maskrcnn_ops.version import __version__

try:
    load()
except ImportError:
    # `python -m maskrcnn_ops` imports this file first, and is there to report why the library does not load.
    if sys.argv[:1] != ["-m"]:
        raise
else:
    from maskrcnn_ops.box_coder import decode_boxes, decode_grid, encode_boxes
    from maskrcnn_ops.boxes import (
        box_area,
        box_convert,
        box_iou,
        clip_boxes_to_image,
        generalized_box_iou,
        remove_small_boxes,
    )
    from maskrcnn_ops.crop_masks import crop_masks, rasterize_polygons
    from maskrcnn_ops.decode_anchors import decode_anchors
    from maskrcnn_ops.keypoints import heatmaps_to_keypoints, keypoints_to_heatmap_targets
    from maskrcnn_ops.masks_to_boxes import masks_to_boxes
    from maskrcnn_ops.masks_to_rle import masks_to_rle
    from maskrcnn_ops.match_boxes import match_anchors, match_boxes
    from maskrcnn_ops.multiscale_roi_align import MultiScaleRoIAlign, multiscale_roi_align
    from maskrcnn_ops.nms import batched_nms, fast_nms, nms, padded_nms
    from maskrcnn_ops.paste_masks import paste_masks
    from maskrcnn_ops.ps_roi_pool import PSRoIAlign, PSRoIPool, ps_roi_align, ps_roi_pool
    from maskrcnn_ops.rle import rle_area, rle_decode, rle_iou, rle_to_boxes
    from maskrcnn_ops.roi_align import RoIAlign, roi_align
    from maskrcnn_ops.roi_pool import RoIPool, roi_pool
    from maskrcnn_ops.roi_warp import RoIWarp, roi_warp
    from maskrcnn_ops.soft_nms import soft_nms

__all__ = [
    "MultiScaleRoIAlign",
    "PSRoIAlign",
    "PSRoIPool",
    "RoIAlign",
    "RoIPool",
    "RoIWarp",
    "__version__",
    "batched_nms",
    "box_area",
    "box_convert",
    "box_iou",
    "clip_boxes_to_image",
    "crop_masks",
    "decode_anchors",
    "decode_boxes",
    "decode_grid",
    "encode_boxes",
    "fast_nms",
    "generalized_box_iou",
    "heatmaps_to_keypoints",
    "keypoints_to_heatmap_targets",
    "masks_to_boxes",
    "masks_to_rle",
    "match_anchors",
    "match_boxes",
    "multiscale_roi_align",
    "nms",
    "padded_nms",
    "paste_masks",
    "ps_roi_align",
    "ps_roi_pool",
    "rasterize_polygons",
    "remove_small_boxes",
    "rle_area",
    "rle_decode",
    "rle_iou",
    "rle_to_boxes",
    "roi_align",
    "roi_pool",
    "roi_warp",
    "soft_nms",
]
