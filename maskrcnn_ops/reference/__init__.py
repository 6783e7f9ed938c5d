"""Every operator of this package in plain PyTorch: the executable specification.

Written to be read and to be trusted, not to be fast: each formula stands here once, in the order in which the
kernels evaluate it. Names and signatures are those of ``maskrcnn_ops``. Everything runs on any device, in
float32 and float64 (half-precision coordinates are widened to float32 on entry, half-precision features and
masks are accumulated in float32), and is differentiable through autograd where the operator is: pooling ->
features; IoU, encode, decode, clip, convert, area -> boxes and deltas; ``paste_masks(threshold=None)`` ->
masks. Arguments are not validated here, except that an image index outside the batch raises.

Note [Pixel centres]
~~~~~~~~~~~~~~~~~~~~
Coordinates are continuous and measured at pixel *edges*: an image of width W spans [0, W], pixel i spans
[i, i + 1] and its value sits at its centre, i + 0.5. A box ``xyxy`` = (x1, y1, x2, y2) has width x2 - x1 and
covers whole pixels when its sides are integers. The *cell index* of a point is therefore u = x - 0.5: at u =
i the point lies on the centre of cell i, and between two centres linear interpolation applies. An operator
whose option is called ``aligned`` (or ``convention="continuous"``) subtracts this half pixel; with
``aligned=False`` the coordinate is taken as a cell index directly, half a cell too far to the lower right,
which is the original RoIAlign and what published weights expect.
"""

from .boxes import (
    box_area,
    box_convert,
    box_iou,
    clip_boxes_to_image,
    decode_boxes,
    decode_grid,
    encode_boxes,
    generalized_box_iou,
    masks_to_boxes,
    remove_small_boxes,
)
from .crop_masks import crop_masks, polygon_bitmaps, rasterize_polygons
from .decode_anchors import decode_anchors
from .keypoints import heatmaps_to_keypoints, keypoints_to_heatmap_targets
from .masks_to_rle import encode_bitmaps, masks_to_rle
from .match_boxes import match_anchors, match_boxes
from .multiscale import MultiScaleRoIAlign, assign_levels, multiscale_roi_align
from .nms import batched_nms, fast_nms, nms, padded_nms
from .paste_masks import paste_masks
from .ps_roi_pool import PSRoIAlign, PSRoIPool, ps_roi_align, ps_roi_pool
from .roi_align import RoIAlign, roi_align
from .roi_pool import RoIPool, roi_pool
from .roi_warp import RoIWarp, roi_warp
from .soft_nms import soft_nms

__all__ = [
    "MultiScaleRoIAlign",
    "PSRoIAlign",
    "PSRoIPool",
    "RoIAlign",
    "RoIPool",
    "RoIWarp",
    "assign_levels",
    "batched_nms",
    "box_area",
    "box_convert",
    "box_iou",
    "clip_boxes_to_image",
    "crop_masks",
    "decode_anchors",
    "decode_boxes",
    "decode_grid",
    "encode_bitmaps",
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
    "polygon_bitmaps",
    "ps_roi_align",
    "ps_roi_pool",
    "rasterize_polygons",
    "remove_small_boxes",
    "roi_align",
    "roi_pool",
    "roi_warp",
    "soft_nms",
]
