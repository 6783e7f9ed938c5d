"""Whole detectors with the same weights, for CUDA: pictures to detections, with nothing left to the host."""

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.end_to_end import TOLERANCES, Cast, Scene, cast_of, filled, layers
from benchmarks.harness import Case, Row, Setting, Target


def detect_batch(model: nn.Module, images: list[Tensor], cast: Cast) -> Callable[[], list[Tensor]]:
    """Pictures to detections with full-size masks, on the device; the scores of each picture."""

    @torch.inference_mode()
    def call() -> list[Tensor]:
        with cast():
            return [filled(detections["scores"].float()) for detections in model(images)]

    return call


def _prepare_detection(dtype: str, images: int, setting: Setting) -> Case:
    from maskrcnn.results import inference

    scene = Scene.of(setting, images)
    cast = cast_of(setting.device, dtype)
    with inference(scene.model) as fast:
        fast.mask_format = "full"  # type: ignore[assignment]
        ours = detect_batch(fast, scene.images, cast)
    plain = scene.peer() if setting.peer else scene.model
    return Case(
        ours,
        detect_batch(plain, scene.images, cast) if setting.peer else None,
        detect_batch(plain, scene.images, nullcontext),
        scene.images,
        operations=layers(ours, dtype),
        images=len(scene.images),
    )


_TARGETS = {"float32": 1.5, "bfloat16": 2.0}
ROWS = [
    *(
        Row(
            f"end_to_end/detection/{dtype}/{images} image{'s' * (images > 1)}",
            partial(_prepare_detection, dtype, images),
            TOLERANCES[dtype],
            {"cuda": Target(_TARGETS[dtype])},
            what=f"maskrcnn_resnet50_fpn, 800 x 1216 to detections with full-size masks, {dtype} on both sides"
            + " (autocast)" * (dtype == "bfloat16"),
            devices=("cuda",),
        )
        for dtype in _TARGETS
        for images in (1, 8)
    ),
]
