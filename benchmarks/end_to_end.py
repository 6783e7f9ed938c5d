"""Whole detectors with the same weights: a picture to COCO results."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks import inputs, operations, peers
from benchmarks.clock import Call
from benchmarks.harness import Case, Row, Setting, Target

CLASSES = 91
DETECTIONS = 100  # at most, on a picture

Cast = Callable[[], AbstractContextManager[Any]]
Prepare = Callable[[Setting], Case]


def cast_of(device: str, dtype: str) -> Cast:
    return nullcontext if dtype == "float32" else partial(torch.autocast, device, torch.bfloat16)


def layers(call: Call, dtype: str) -> float | None:
    """Their operations; the peak that is measured is float32's."""
    return operations.of_layers(call) if dtype == "float32" else None


def _scores(results: list[dict[str, Any]]) -> Tensor:
    return filled(torch.tensor([result["score"] for result in results]))


def filled(found: Tensor) -> Tensor:
    """Up with zeros, for in bfloat16 a detection more or less is no error."""
    return torch.cat([found, found.new_zeros(max(0, DETECTIONS - len(found)))])


def detect_ours(model: nn.Module, image: Tensor, cast: Cast) -> Callable[[], Tensor]:
    """A picture to results with encoded masks, as ``maskrcnn.evaluation`` does it."""
    from maskrcnn.results import inference, to_results

    size, ids = (image.shape[-2], image.shape[-1]), list(range(1, CLASSES))
    with inference(model) as fast:
        kept = fast

    @torch.inference_mode()
    def call() -> Tensor:
        with cast():
            (detections,) = kept([image])
        return _scores(to_results(detections, 0, size, ids, "integer"))

    return call


def detect_peer(model: nn.Module, image: Tensor, cast: Cast) -> Callable[[], Tensor]:
    """The same with torchvision: paste, cut, encode."""
    from pycocotools import mask as coco_mask

    @torch.inference_mode()
    def call() -> Tensor:
        with cast():
            (detections,) = model([image])
        masks = (detections["masks"][:, 0] > 0.5).to(torch.uint8).permute(1, 2, 0).cpu().numpy()
        fields = detections["boxes"].tolist(), detections["scores"].tolist()
        encoded = coco_mask.encode(np.asfortranarray(masks))
        return _scores(
            [
                {"bbox": box, "score": score, "segmentation": mask}
                for box, score, mask in zip(*fields, encoded, strict=True)
            ]
        )

    return call


@dataclass(frozen=True)
class Scene:
    """Pictures and a detector with random weights."""

    options: dict[str, Any]
    model: nn.Module
    images: list[Tensor]

    @property
    def image(self) -> Tensor:
        return self.images[0]

    @classmethod
    def of(cls, setting: Setting, images: int = 1) -> "Scene":
        import maskrcnn

        options: dict[str, Any] = {
            "num_classes": CLASSES,
            "min_size": min(setting.sizes.image),
            "max_size": max(setting.sizes.image),
        }
        if setting.quick:
            options |= {"rpn_post_nms_top_n_test": 20, "box_detections_per_img": 5}
        torch.manual_seed(0)
        model: Any = maskrcnn.maskrcnn_resnet50_fpn(**options).eval()
        # Fresh mask logits are so near to zero that bfloat16 would round every probability to a half.
        nn.init.normal_(model.roi_heads.mask_predictor.mask_fcn_logits.weight, std=0.15)
        model = model.to(setting.device)
        pictures = inputs.pictures(setting.batch(images))
        return cls(options, model, [each.to(setting.device) for each in pictures])

    def peer(self) -> nn.Module:
        """torchvision's detector with the same weights."""
        model = peers.maskrcnn_resnet50_fpn(**self.options).eval().to(self.image.device)
        model.load_state_dict(self.model.state_dict())
        return model


def _prepare_inference(dtype: str, peer_dtype: str, setting: Setting) -> Case:
    scene = Scene.of(setting)
    ours = detect_ours(scene.model, scene.image, cast_of(setting.device, dtype))
    count = layers(ours, dtype)
    if not setting.peer:
        expected = detect_ours(scene.model, scene.image, nullcontext)
        return Case(ours, None, expected, [scene.image], operations=count)
    peer = scene.peer()
    theirs = detect_peer(peer, scene.image, cast_of(setting.device, peer_dtype))
    expected = detect_peer(peer, scene.image, nullcontext)
    found = int(torch.count_nonzero(expected()))
    return Case(ours, theirs, expected, [scene.image], f"{found} detections, random weights", count)


def _prepare_drop_in(setting: Setting) -> Case:
    if not setting.peer:
        return _prepare_inference("float32", "float32", setting)
    scene = Scene.of(setting)
    theirs = detect_peer(scene.peer(), scene.image, nullcontext)
    with peers.our_operators():
        patched = detect_peer(scene.peer(), scene.image, nullcontext)

    def ours() -> Tensor:
        with peers.our_operators():
            return patched()

    return Case(ours, theirs, theirs, [scene.image], operations=layers(ours, "float32"))


def _row(kind: str, dtype: str, at_least: float | None, what: str, prepare: Prepare) -> Row:
    targets = {} if at_least is None else {"cpu": Target(at_least)}
    return Row(f"end_to_end/{kind}", prepare, TOLERANCES[dtype], targets, what=what, repeats=5)


_PICTURE = "maskrcnn_resnet50_fpn, one picture to COCO results with encoded masks"
# Of scores. Fifty layers of random weights magnify bfloat16's rounding.
TOLERANCES = {"float32": 1e-3, "bfloat16": 0.3}
ROWS = [
    _row("inference/float32", "float32", 1.25, _PICTURE, partial(_prepare_inference, "float32", "float32")),
    _row(
        "inference/bfloat16", "bfloat16", 1.5, _PICTURE, partial(_prepare_inference, "bfloat16", "bfloat16")
    ),
    _row(
        "inference/bfloat16_against_float32",
        "bfloat16",
        2.0,
        f"{_PICTURE}; torchvision in float32",
        partial(_prepare_inference, "bfloat16", "float32"),
    ),
    _row(
        "drop_in/float32",
        "float32",
        None,
        f"{_PICTURE}: torchvision's own on our operators",
        _prepare_drop_in,
    ),
]
