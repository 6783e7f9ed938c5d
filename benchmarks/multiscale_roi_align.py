"""MultiScaleRoIAlign: 1000 RoIs over four levels, strides 4 to 32, ratio 2; forward, and forward with backward."""

from functools import partial

import torch
from torch import Tensor, nn

import maskrcnn_ops as ops
from benchmarks import inputs, operations
from benchmarks.harness import Call, Case, Result, Row, Setting
from benchmarks.pooling import REFERENCE_CHUNK
from maskrcnn_ops import reference

LEVELS = 4


def _prepare(direction: str, layout: str, setting: Setting) -> Case:
    maps = {
        str(k): each.to(setting.device)
        for k, each in enumerate(inputs.feature_pyramid(setting.sizes, layout, LEVELS))
    }
    boxes = inputs.boxes(setting.sizes.rois, setting.sizes).to(setting.device)
    gradient = inputs.pooled_gradient(setting.sizes, torch.float32).to(setting.device)

    def call(module: type[nn.Module], boxes: Tensor = boxes, gradient: Tensor = gradient) -> Call:
        pool = module(list(maps), inputs.POOLED, inputs.SAMPLING_RATIO)
        if direction == "forward":
            return lambda: pool(maps, [boxes], [setting.sizes.image])
        leaves = {name: each.detach().requires_grad_() for name, each in maps.items()}
        output = pool(leaves, [boxes], [setting.sizes.image])
        arriving = torch.empty_like(output).copy_(gradient)
        return lambda: torch.autograd.grad(output, list(leaves.values()), arriving, retain_graph=True)

    def expected() -> Result:
        chunks = zip(boxes.split(REFERENCE_CHUNK), gradient.split(REFERENCE_CHUNK), strict=True)
        results = [call(reference.MultiScaleRoIAlign, *chunk)() for chunk in chunks]
        if direction == "forward":
            return torch.cat(results)  # type: ignore[arg-type]
        return [torch.stack(level).sum(0) for level in zip(*results, strict=True)]

    reads = [boxes, *maps.values()] if direction == "forward" else [boxes, gradient]
    count = operations.BILINEAR * inputs.SAMPLING_RATIO**2 * gradient.numel()
    if not setting.peer:
        return Case(call(ops.MultiScaleRoIAlign), None, expected, reads, operations=count)
    from torchvision.ops import MultiScaleRoIAlign

    peer = call(MultiScaleRoIAlign)
    return Case(call(ops.MultiScaleRoIAlign), peer, peer, reads, operations=count)


ROWS = [
    Row(
        name=f"multiscale_roi_align/{direction}/float32/{layout}",
        prepare=partial(_prepare, direction, layout),
        tolerance=1e-4,  # as for roi_align
        at_least=12.0 if direction == "forward" and layout == "contiguous" else None,
        what="1000 RoIs over 4 levels (strides 4 to 32) of 256 channels, 7 x 7, levels chosen inside"
        + (", only the gradients, the forward's graph kept" if direction == "backward" else ""),
    )
    for direction in ("forward", "backward")
    for layout in inputs.LAYOUTS
]
