"""A call of every public operator, for the tests of what all operators promise."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from cases import random_boxes, random_map, random_rois
from nms_cases import generator, overlapping_boxes, scores_of
from torch import Tensor

import maskrcnn_ops as ops


@dataclass(frozen=True)
class Call:
    """What is called, and its inputs on the CPU for a seed, on which neither shapes nor dtypes depend."""

    run: Callable[..., Any]
    inputs: Callable[[int], Sequence[Tensor]]
    gradients: tuple[int, ...] = ()  # the inputs that have one
    reads: int = 0  # how often the host waits for the GPU, to know the size of the output
    from_host: bool = False  # whether it also takes what lies on the host, which a CUDA graph cannot replay


def results(call: Call, inputs: Sequence[Tensor]) -> list[Tensor]:
    """The outputs, then the gradients of the inputs that have one, for a function of the outputs as theirs."""
    leaves = [each.detach().requires_grad_(i in call.gradients) for i, each in enumerate(inputs)]
    outputs = call.run(*leaves)
    outputs = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    if not call.gradients:
        return outputs
    wanted = [leaves[i] for i in call.gradients]
    values = [each.detach() for each in outputs]
    return [*values, *torch.autograd.grad(outputs, wanted, [each.sin() for each in values])]


def assert_same(actual: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    """To the bit, wherever they lie."""
    for ours, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(ours.cpu(), theirs.cpu(), rtol=0, atol=0, equal_nan=True)


def maps(seed: int) -> list[Tensor]:
    return [random_map(2, 12, 20, 24, seed=seed), random_rois(30, 2, 80, 60, seed)]


def maps_in_half(seed: int) -> list[Tensor]:
    features, rois = maps(seed)
    return [features.bfloat16().contiguous(memory_format=torch.channels_last), rois]


def pyramid(seed: int) -> list[Tensor]:
    return [random_map(2, 12, 10, 12, seed=seed + 1), *maps(seed)]


def levels(seed: int) -> list[Tensor]:
    return [*pyramid(seed), torch.randint(2, (30,), generator=generator(seed))]


def boxes(count: int, seed: int) -> Tensor:
    return random_boxes(count, 40, 30, generator(seed))


def pairs(seed: int) -> list[Tensor]:
    return [boxes(40, seed), boxes(30, seed + 1)]


def matched(seed: int) -> list[Tensor]:
    return [boxes(40, seed), boxes(40, seed + 1)]


def deltas(seed: int) -> list[Tensor]:
    return [random_map(40, 12, seed=seed), boxes(40, seed)]


def proposals(seed: int) -> list[Tensor]:
    logits, codes = random_map(2, 3, 8, 9, seed=seed), random_map(2, 12, 8, 9, seed=seed + 1)
    return [logits, codes, boxes(3, seed), torch.tensor([[30.0, 36.0], [32.0, 20.0 + seed % 9]])]


def masks(seed: int) -> list[Tensor]:
    return [random_map(9, 14, 14, seed=seed).sigmoid(), boxes(9, seed)]


def bitmaps(seed: int) -> list[Tensor]:
    return [random_map(6, 30, 40, seed=seed) > 2.5, boxes(6, seed)]


def keypoints(seed: int) -> list[Tensor]:
    places = random_map(7, 5, 3, seed=seed) * 10 + 15
    return [places, boxes(7, seed)]


def scored(seed: int) -> list[Tensor]:
    return [overlapping_boxes(300, seed), scores_of(300, seed)]


def grouped(seed: int) -> list[Tensor]:
    return [*scored(seed), *torch.randint(4, (2, 300), generator=generator(seed))]


def batched(seed: int) -> list[Tensor]:
    candidates, scores, classes, _ = grouped(seed)
    counts = torch.randint(50, 101, (3,), generator=generator(seed))
    return [candidates.view(3, 100, 4), scores.view(3, 100), classes.view(3, 100), counts]


POLYGONS = [[[3.0, 4.0, 30.0, 6.0, 20.0, 25.0]], [[8.0, 2.0, 16.0, 2.0, 16.0, 20.0, 8.0, 20.0]]]
ENCODINGS = [{"size": [30, 40], "counts": [300, 200, 400, 300]}, {"size": [30, 40], "counts": [0, 600, 600]}]
GRID = {"strides": [4], "high": 0.5, "low": 0.3, "allow_low_quality": True}

# By the operator's name, and after a slash what is special in the call.
CALLS = {
    "roi_align": Call(lambda x, r: ops.roi_align(x, r, 7, 0.25, 2), maps, (0, 1)),
    "roi_align/adaptive": Call(lambda x, r: ops.roi_align(x, r, (5, 3), 0.25, aligned=True), maps, (0,)),
    "roi_align/half": Call(lambda x, r: ops.roi_align(x, r, 7, 0.25), maps_in_half, (0,)),
    "roi_align/max": Call(lambda x, r: ops.roi_align(x, r, 7, 0.25, 2, reduction="max"), maps, (0, 1)),
    "roi_align/lists": Call(
        lambda x, a, b: ops.roi_align(x, [a, b], 7, 0.25, 2),
        lambda seed: [maps(seed)[0], *pairs(seed)],
        (0, 1, 2),
    ),
    "multiscale_roi_align": Call(
        lambda b, a, r: ops.multiscale_roi_align([a, b], r, 7, [0.25, 0.125], 2, canonical_scale=60),
        pyramid,
        (0, 1, 2),
    ),
    "multiscale_roi_align/levels": Call(
        lambda b, a, r, k: ops.multiscale_roi_align([a, b], r, 7, [0.25, 0.125], levels=k), levels, (0, 1)
    ),
    "MultiScaleRoIAlign": Call(
        lambda b, a, r: ops.MultiScaleRoIAlign(["a", "b"], 7, 2, canonical_scale=60)(
            {"a": a, "b": b}, [r[:, 1:], r[:, 1:]], [(80, 96), (70, 90)]
        ),
        pyramid,
        (0, 1, 2),
    ),
    "roi_pool": Call(lambda x, r: ops.roi_pool(x, r, 7, 0.25), maps, (0,)),
    "roi_pool/half": Call(lambda x, r: ops.roi_pool(x, r, 7, 0.25), maps_in_half, (0,)),
    "roi_warp": Call(lambda x, r: ops.roi_warp(x, r, 7, 0.25), maps, (0,)),
    "ps_roi_align": Call(lambda x, r: ops.ps_roi_align(x, r, (3, 2), 0.25), maps, (0,)),
    "ps_roi_align/half": Call(lambda x, r: ops.ps_roi_align(x, r, (3, 2), 0.25, 2), maps_in_half, (0,)),
    "ps_roi_pool": Call(lambda x, r: ops.ps_roi_pool(x, r, (3, 2), 0.25), maps, (0,)),
    "ps_roi_pool/half": Call(lambda x, r: ops.ps_roi_pool(x, r, (3, 2), 0.25), maps_in_half, (0,)),
    "box_area": Call(lambda a, _: ops.box_area(a), pairs, (0,)),
    "box_convert": Call(lambda a, _: ops.box_convert(a, "xyxy", "cxcywh"), pairs, (0,)),
    "clip_boxes_to_image": Call(lambda a, _: ops.clip_boxes_to_image(a, (20, 30)), pairs, (0,)),
    "remove_small_boxes": Call(lambda a, _: ops.remove_small_boxes(a, 9), pairs, reads=1),
    "box_iou": Call(ops.box_iou, pairs, (0, 1)),
    "generalized_box_iou": Call(ops.generalized_box_iou, pairs, (0, 1)),
    "encode_boxes": Call(lambda a, b: ops.encode_boxes(a, b, (10, 10, 5, 5)), matched, (0, 1)),
    "decode_boxes": Call(ops.decode_boxes, deltas, (0, 1)),
    "decode_grid": Call(
        lambda d, cells: ops.decode_grid(d.view(-1, 120, 4), cells[:3], (5, 8), 4), deltas, (0,)
    ),
    "decode_anchors": Call(
        lambda x, d, cells, sizes: ops.decode_anchors([x], [d], [cells], [4], sizes, 50, min_size=1),
        proposals,
    ),
    "decode_anchors/numbers": Call(
        lambda x, d, cells, _: ops.decode_anchors([x], [d], [cells], [4], [(30, 36), (32, 28)], 50),
        proposals,
        from_host=True,
    ),
    "match_boxes": Call(lambda a, b: ops.match_boxes(a, b, 0.5, 0.3, True), pairs),
    "match_anchors": Call(lambda a, b: ops.match_anchors(a, [b[:3]], [(8, 9)], **GRID), pairs),
    "masks_to_boxes": Call(lambda m, _: ops.masks_to_boxes(m), bitmaps),
    "paste_masks": Call(lambda m, b: ops.paste_masks(m, b, (30, 40)), masks),
    "paste_masks/probabilities": Call(lambda m, b: ops.paste_masks(m, b, (30, 40), None), masks, (0,)),
    "masks_to_rle": Call(lambda m, b: ops.rle_decode(ops.masks_to_rle(m, b, (30, 40))), masks, reads=2),
    "crop_masks": Call(lambda m, b: ops.crop_masks(m, b, 14), bitmaps),
    "crop_masks/encodings": Call(lambda a, _: ops.crop_masks(ENCODINGS, a[:2], 14), pairs, from_host=True),
    "rasterize_polygons": Call(
        lambda a, _: ops.rasterize_polygons(POLYGONS, a[:2], 14, (30, 40)), pairs, from_host=True
    ),
    "heatmaps_to_keypoints": Call(lambda x, b: ops.heatmaps_to_keypoints(x[:, None], b), masks),
    "keypoints_to_heatmap_targets": Call(lambda k, b: ops.keypoints_to_heatmap_targets(k, b, 14), keypoints),
    "nms": Call(lambda b, s: ops.nms(b, s, 0.5), scored, reads=1),
    "batched_nms": Call(lambda b, s, i, _: ops.batched_nms(b, s, i, 0.5), grouped, reads=1),
    "batched_nms/images": Call(
        lambda b, s, i, n: ops.batched_nms(b, s, i, 0.5, image_idxs=n, max_output=20), grouped, reads=1
    ),
    "padded_nms": Call(lambda b, s, c, n: ops.padded_nms(b, s, 0.5, 40, classes=c, counts=n), batched),
    "fast_nms": Call(lambda b, s: ops.fast_nms(b, s, 0.5), scored, reads=1),
    "soft_nms": Call(lambda b, s: ops.soft_nms(b, s), scored, reads=1),
    "soft_nms/groups": Call(lambda b, s, i, _: ops.soft_nms(b, s, idxs=i), grouped, reads=1),
}
REPLAYABLE = [name for name, call in CALLS.items() if not (call.reads or call.from_host)]

# Names of the package without a call of their own.
OTHERS = {
    **dict.fromkeys(
        ["RoIAlign", "RoIPool", "RoIWarp", "PSRoIAlign", "PSRoIPool"], "passes on to the function"
    ),
    **dict.fromkeys(["rle_area", "rle_decode", "rle_iou", "rle_to_boxes"], "Python strings, on the host"),
    "__version__": "no operator",
}
