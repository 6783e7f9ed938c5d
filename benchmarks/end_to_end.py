"""Whole detectors with the same weights: a picture to COCO results, and a training step."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks import operations, peers
from benchmarks.harness import Call, Case, Row, Setting

CLASSES = 91
DETECTIONS = 100  # at most, on a picture
OBJECTS = 40  # drawn at most on a training picture
PICTURES = 4

Cast = Callable[[], AbstractContextManager[Any]]


def _cast(device: str, dtype: str) -> Cast:
    return nullcontext if dtype == "float32" else partial(torch.autocast, device, torch.bfloat16)


def _count(call: Call, dtype: str) -> float | None:
    """The peak that is measured is float32's."""
    return operations.of_layers(call) if dtype == "float32" else None


def _scores(results: list[dict[str, Any]]) -> Tensor:
    """Descending; filled up with zeros, for in bfloat16 a detection more or less is no error."""
    found = torch.tensor([result["score"] for result in results])
    return torch.cat([found, torch.zeros(max(0, DETECTIONS - len(found)))])


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
class _Scene:
    """A picture and a detector with random weights."""

    options: dict[str, Any]
    model: nn.Module
    image: Tensor

    @classmethod
    def of(cls, setting: Setting) -> "_Scene":
        import maskrcnn

        options: dict[str, Any] = {
            "num_classes": CLASSES,
            "min_size": min(setting.sizes.image),
            "max_size": max(setting.sizes.image),
        }
        if setting.quick:
            options |= {"rpn_post_nms_top_n_test": 20, "box_detections_per_img": 5}
        torch.manual_seed(0)
        model = maskrcnn.maskrcnn_resnet50_fpn(**options).eval().to(setting.device)
        return cls(options, model, torch.rand(3, *setting.sizes.image).to(setting.device))

    def peer(self) -> nn.Module:
        """torchvision's detector with the same weights."""
        model = peers.maskrcnn_resnet50_fpn(**self.options).eval().to(self.image.device)
        model.load_state_dict(self.model.state_dict())
        return model


def _prepare_inference(dtype: str, peer_dtype: str, setting: Setting) -> Case:
    scene = _Scene.of(setting)
    ours = detect_ours(scene.model, scene.image, _cast(setting.device, dtype))
    count = _count(ours, dtype)
    if not setting.peer:
        expected = detect_ours(scene.model, scene.image, nullcontext)
        return Case(ours, None, expected, [scene.image], operations=count)
    peer = scene.peer()
    theirs = detect_peer(peer, scene.image, _cast(setting.device, peer_dtype))
    expected = detect_peer(peer, scene.image, nullcontext)
    found = int(torch.count_nonzero(expected()))
    return Case(ours, theirs, expected, [scene.image], f"{found} detections, random weights", count)


def _prepare_drop_in(setting: Setting) -> Case:
    if not setting.peer:
        return _prepare_inference("float32", "float32", setting)
    scene = _Scene.of(setting)
    theirs = detect_peer(scene.peer(), scene.image, nullcontext)
    with peers.our_operators():
        patched = detect_peer(scene.peer(), scene.image, nullcontext)

    def ours() -> Tensor:
        with peers.our_operators():
            return patched()

    return Case(ours, theirs, theirs, [scene.image], operations=_count(ours, "float32"))


def _prepare_training(dtype: str, setting: Setting) -> Case:
    import maskrcnn
    from maskrcnn.data import ShapesDataset

    side = 64 if setting.quick else 256
    dataset = ShapesDataset(PICTURES, side, max_objects=OBJECTS)
    samples = [dataset[i] for i in range(PICTURES)]
    images = [image.float().div(255).to(setting.device) for image, _ in samples]
    boxes, labels = ([target[key].to(setting.device) for _, target in samples] for key in ("boxes", "labels"))
    encoded = [target["masks"] for _, target in samples]
    bitmaps = [masks.decode().to(torch.uint8).to(setting.device) for masks in encoded]
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"min_size": side, "max_size": side}
    ours = maskrcnn.maskrcnn_tiny(num_classes=dataset.num_classes, mask_convention="integer", **sizes).train()
    state = {name: value.clone() for name, value in ours.state_dict().items()}
    ours = ours.to(setting.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    cast = _cast(setting.device, dtype)

    def step(model: nn.Module, masks: list[Any]) -> Call:
        targets = [
            {"boxes": b, "labels": k, "masks": m} for b, k, m in zip(boxes, labels, masks, strict=True)
        ]

        def call() -> Tensor:
            torch.manual_seed(1)
            model.zero_grad()
            with cast():
                losses = model(images, targets)
                total = torch.stack([loss.float() for loss in losses.values()]).sum()
            total.backward()
            return total.detach()

        return call

    note = f"{sum(map(len, labels))} objects; the loss is compared, whose sampling differs"
    count = _count(step(ours, encoded), dtype)
    if not setting.peer:
        return Case(step(ours, encoded), None, step(ours, bitmaps), images, note, count)
    theirs = peers.maskrcnn_tiny(dataset.num_classes, **sizes).train()
    theirs.load_state_dict(state)
    peer = step(theirs.to(setting.device), bitmaps)
    return Case(step(ours, encoded), peer, peer, images, note, count)


def _row(
    kind: str, tolerance: float, at_least: float | None, what: str, prepare: Callable[[Setting], Case]
) -> Row:
    return Row(f"end_to_end/{kind}", prepare, tolerance, at_least, what=what)


_PICTURE = "maskrcnn_resnet50_fpn, one picture to COCO results with encoded masks"
_STEP = "maskrcnn_tiny, forward and backward of 4 pictures of 256 x 256 with up to 40 objects"
# Tolerances of scores and losses. Fifty layers of random weights magnify bfloat16's rounding.
ROWS = [
    _row("inference/float32", 1e-3, 1.25, _PICTURE, partial(_prepare_inference, "float32", "float32")),
    _row("inference/bfloat16", 0.3, 1.5, _PICTURE, partial(_prepare_inference, "bfloat16", "bfloat16")),
    _row(
        "inference/bfloat16_against_float32",
        0.3,
        2.0,
        f"{_PICTURE}; torchvision in float32",
        partial(_prepare_inference, "bfloat16", "float32"),
    ),
    _row("drop_in/float32", 1e-3, None, f"{_PICTURE}: torchvision's own on our operators", _prepare_drop_in),
    _row("training/float32", 0.05, 1.3, _STEP, partial(_prepare_training, "float32")),
    _row("training/bfloat16", 0.05, 2.0, _STEP, partial(_prepare_training, "bfloat16")),
]
