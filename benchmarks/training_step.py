"""A detector's training step, forward and backward, with the same weights: small, and on CUDA at full size."""

import dataclasses
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import peers
from benchmarks.clock import Call
from benchmarks.end_to_end import cast_of, layers
from benchmarks.harness import Case, Row, Setting, Target

_SIDE, _QUICK_SIDE = 256, 64


def _prepare_tiny(dtype: str, setting: Setting) -> Case:
    side = _QUICK_SIDE if setting.quick else _SIDE
    return _prepare("maskrcnn_tiny", (side, side), 4, 40, dtype, setting, {})


def _prepare_resnet50(dtype: str, images: int, setting: Setting) -> Case:
    sizes = setting.batch(images)
    few = {"rpn_post_nms_top_n_train": 20, "box_batch_size_per_image": 16} if setting.quick else {}
    case = _prepare("maskrcnn_resnet50_fpn", sizes.image, sizes.images, 20, dtype, setting, few)
    return dataclasses.replace(case, images=sizes.images)


def _prepare(
    builder: str,
    size: tuple[int, int],
    pictures: int,
    objects: int,
    dtype: str,
    setting: Setting,
    options: dict[str, Any],
) -> Case:
    """`builder` makes the detector, here and in peers.py, with the options; at most `objects` lie on a picture."""
    import maskrcnn
    from maskrcnn.data import ShapesDataset

    dataset = ShapesDataset(pictures, size, max_objects=objects)
    samples = [dataset[i] for i in range(pictures)]
    images = [image.float().div(255).to(setting.device) for image, _ in samples]
    boxes, labels = ([target[key].to(setting.device) for _, target in samples] for key in ("boxes", "labels"))
    encoded = [target["masks"] for _, target in samples]
    bitmaps = [masks.decode().to(torch.uint8).to(setting.device) for masks in encoded]
    torch.manual_seed(0)
    options = {"num_classes": dataset.num_classes, "min_size": min(size), "max_size": max(size), **options}
    ours = getattr(maskrcnn, builder)(mask_convention="integer", **options).train()
    state = {name: value.clone() for name, value in ours.state_dict().items()}
    ours = ours.to(setting.device, memory_format=torch.channels_last)
    cast = cast_of(setting.device, dtype)

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
    count = layers(step(ours, encoded), dtype)
    if not setting.peer:
        return Case(step(ours, encoded), None, step(ours, bitmaps), images, note, count)
    theirs = getattr(peers, builder)(**options).train()
    theirs.load_state_dict(state)
    peer = step(theirs.to(setting.device), bitmaps)
    return Case(step(ours, encoded), peer, peer, images, note, count)


_STEP = "forward and backward of {} pictures of {} with up to {} objects"
# Tolerances are of the loss.
ROWS = [
    *(
        Row(
            f"end_to_end/training/{dtype}",
            partial(_prepare_tiny, dtype),
            0.05,
            {"cpu": Target(at_least)},
            what=f"maskrcnn_tiny, {_STEP.format(4, '256 x 256', 40)}",
        )
        for dtype, at_least in (("float32", 1.3), ("bfloat16", 2.0))
    ),
    Row(
        "end_to_end/training_resnet50/bfloat16/8 images",
        partial(_prepare_resnet50, "bfloat16", 8),
        0.05,
        {"cuda": Target(1.5, memory_at_most=0.7)},
        what=f"maskrcnn_resnet50_fpn under autocast, {_STEP.format(8, '800 x 1216', 20)}",
        devices=("cuda",),
        repeats=5,
    ),
]
