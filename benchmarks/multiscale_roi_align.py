"""MultiScaleRoIAlign: 1000 RoIs over four levels, strides 4 to 32, ratio 2; on CUDA also of several images."""

import dataclasses
from collections.abc import Iterator, Sequence
from functools import partial, reduce

import torch
from torch import Tensor, nn

import maskrcnn_ops as ops
from benchmarks import inputs, operations, sectors
from benchmarks.clock import Call, Result
from benchmarks.harness import DEVICES, Case, Row, Setting, Target
from benchmarks.pooling import REFERENCE_CHUNK
from benchmarks.terms import peer_terms, within
from maskrcnn_ops import reference
from maskrcnn_ops.reference.multiscale import assign_levels

LEVELS = 4
TOLERANCES = {"float32": 1e-4, "bfloat16": 4e-3, "float16": 1e-3}  # as for roi_align


def _prepare(direction: str, dtype: str, layout: str, images: int, setting: Setting) -> Case:
    sizes, wanted = setting.batch(images), inputs.DTYPES[dtype]
    maps = inputs.feature_pyramid(sizes, wanted, layout, LEVELS, setting.device)
    rois = inputs.rois(sizes).to(setting.device)
    boxes, frames = list(rois[:, 1:].split(sizes.rois)), [sizes.image] * sizes.images
    gradient = inputs.pooled_gradient(sizes, wanted, setting.device)

    def call(
        module: type[nn.Module],
        dtype: torch.dtype = wanted,
        boxes: Sequence[Tensor] = boxes,
        gradient: Tensor = gradient,
    ) -> Call:
        pool = module([str(k) for k in range(LEVELS)], inputs.POOLED, inputs.SAMPLING_RATIO)
        given = {str(k): each.detach().to(dtype) for k, each in enumerate(maps)}
        if direction == "forward":
            return lambda: pool(given, boxes, frames)
        leaves = [each.requires_grad_() for each in given.values()]
        output = pool(given, boxes, frames)
        arriving = torch.empty_like(output).copy_(gradient)
        return lambda: torch.autograd.grad(output, leaves, arriving, retain_graph=True)

    def parts() -> Iterator[Result]:
        for image, (own, arriving) in enumerate(zip(boxes, gradient.split(sizes.rois), strict=True)):
            for part, g in zip(own.split(REFERENCE_CHUNK), arriving.split(REFERENCE_CHUNK), strict=True):
                alone = [part if n == image else part[:0] for n in range(sizes.images)]
                yield call(reference.MultiScaleRoIAlign, torch.float32, alone, g)()

    def expected() -> Result:
        if direction == "forward":
            return torch.cat(list(parts()))  # type: ignore[arg-type]
        return reduce(lambda total, part: [a + b for a, b in zip(total, part, strict=True)], parts())

    case = Case(
        ours=call(ops.MultiScaleRoIAlign),
        peer=None,
        expected=expected,
        reads=[*boxes, *maps] if direction == "forward" else [*boxes, gradient],
        operations=operations.BILINEAR * inputs.SAMPLING_RATIO**2 * gradient.numel(),
        gather=partial(_gather, maps, rois) if direction == "forward" else None,
    )
    if not setting.peer:
        return case
    from torchvision.ops import MultiScaleRoIAlign

    # torchvision's hands its RoIs on in float32, which its kernel takes only beside float32 maps.
    name = "torchvision's MultiScaleRoIAlign"
    terms = peer_terms(dtype, dtype == "float32", setting.device, name)
    return dataclasses.replace(
        case,
        peer=within(terms.mode, lambda: call(MultiScaleRoIAlign, terms.dtype)),
        expected=lambda: call(MultiScaleRoIAlign, torch.float32)(),
        note=terms.note,
    )


def _gather(maps: Sequence[Tensor], rois: Tensor) -> dict[str, int]:
    levels = assign_levels(rois[:, 1:], 2, LEVELS + 1)  # level k has stride 2^k
    counts = []
    for level, (features, stride) in enumerate(zip(maps, inputs.PYRAMID_STRIDES, strict=False)):
        axis = partial(sectors.sampled, scale=1 / stride, bins=inputs.POOLED, ratio=inputs.SAMPLING_RATIO)
        counts.append(sectors.fetched(features, rois[levels == level], axis))
    return {name: sum(count[name] for count in counts) for name in counts[0]}


def _row(direction: str, dtype: str, layout: str, images: int = 1) -> Row:
    usual = layout == inputs.USUAL_LAYOUT[dtype]
    targets = {"cuda": Target(4.0)} if direction == "forward" and usual else {}
    if (direction, dtype, layout, images) == ("forward", "float32", "contiguous", 1):
        targets["cpu"] = Target(12.0)
    return Row(
        name=f"multiscale_roi_align/{direction}/{dtype}/{layout}"
        + (f"/{images} images" if images > 1 else ""),
        prepare=partial(_prepare, direction, dtype, layout, images),
        tolerance=TOLERANCES[dtype],
        targets=targets,
        what=f"{images} images, of each " * (images > 1)
        + "1000 RoIs over 4 levels (strides 4 to 32) of 256 channels, 7 x 7, levels chosen inside"
        + (", only the gradients, the forward's graph kept" if direction == "backward" else ""),
        devices=DEVICES if images == 1 and dtype == "float32" else ("cuda",),
    )


ROWS = [
    *(
        _row(direction, dtype, layout)
        for dtype in inputs.DTYPES
        for direction in ("forward", "backward")
        for layout in inputs.LAYOUTS
    ),
    *(
        _row(direction, dtype, inputs.USUAL_LAYOUT[dtype], images)
        for dtype in inputs.DTYPES
        for direction in ("forward", "backward")
        for images in inputs.BATCHES
    ),
]
