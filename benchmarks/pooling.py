"""What the rows of the pooling operators share: forward and backward, in each dtype and layout."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial, reduce

import torch
from torch import Tensor

from benchmarks import inputs, sectors
from benchmarks.clock import Call, Result
from benchmarks.harness import DEVICES, Case, Row, Setting, Target
from benchmarks.terms import Mode, peer_terms, within

Pool = Callable[[Tensor, Tensor], Tensor]
REFERENCE_CHUNK = 50  # RoIs at a time: the reference's intermediate results are large


@dataclass(frozen=True)
class Pooling:
    """One operator from three hands; `peer` imports torchvision when it is called, in `peer_mode`."""

    name: str
    ours: Pool
    peer: Pool
    reference: Pool
    tolerances: Mapping[tuple[str, str], float]  # by direction and dtype
    targets: Mapping[tuple[str, str, str, str], Target]  # by device, direction, dtype and layout
    operations: Callable[[str, Tensor, int], float]  # of the direction, for these RoIs and so many outputs
    features: Callable[[inputs.Sizes, torch.dtype, str, str], Tensor] = inputs.feature_map
    rois: Callable[[inputs.Sizes], Tensor] = inputs.rois
    gradient: Callable[[inputs.Sizes, torch.dtype, str], Tensor] = inputs.pooled_gradient
    what: str = "1000 RoIs, 256 x 200 x 304 map of stride 4, 7 x 7"
    axis: sectors.Axis | None = None  # which cells the forward reads, where that is counted
    peer_mode: Mode | None = None


def rows(pooling: Pooling) -> list[Row]:
    """Of one image, in each layout."""
    return [
        row(pooling, direction, dtype, layout)
        for direction, dtype in pooling.tolerances
        for layout in inputs.LAYOUTS
    ]


def batched_rows(pooling: Pooling) -> list[Row]:
    """Of several images, for CUDA, in each dtype's usual layout."""
    return [
        row(pooling, direction, dtype, inputs.USUAL_LAYOUT[dtype], images)
        for direction, dtype in pooling.tolerances
        for images in inputs.BATCHES
    ]


def row(pooling: Pooling, direction: str, dtype: str, layout: str, images: int = 1) -> Row:
    devices = ("cuda",) if images > 1 or dtype == "float16" else DEVICES
    targets = {device: pooling.targets.get((device, direction, dtype, layout)) for device in devices}
    return Row(
        name=f"{pooling.name}/{direction}/{dtype}/{layout}" + (f"/{images} images" if images > 1 else ""),
        prepare=partial(prepare, pooling, direction, dtype, layout, images=images),
        tolerance=pooling.tolerances[direction, dtype],
        targets={device: target for device, target in targets.items() if target is not None},
        what=f"{images} images, of each " * (images > 1)
        + pooling.what
        + (", only the gradient, the forward's graph kept" if direction == "backward" else ""),
        devices=devices,
    )


def prepare(
    pooling: Pooling, direction: str, dtype: str, layout: str, setting: Setting, images: int = 1
) -> Case:
    wanted, sizes = inputs.DTYPES[dtype], setting.batch(images)
    features = pooling.features(sizes, wanted, layout, setting.device)
    rois = pooling.rois(sizes).to(setting.device)
    gradient = pooling.gradient(sizes, wanted, setting.device)

    def call(pool: Pool, dtype: torch.dtype, rois: Tensor = rois, gradient: Tensor = gradient) -> Call:
        if direction == "forward":
            converted = features.to(dtype)
            return lambda: pool(converted, rois)
        return backward(pool, features.to(dtype), rois, gradient.to(dtype))

    def reference() -> Result:
        chunks = zip(rois.split(REFERENCE_CHUNK), gradient.split(REFERENCE_CHUNK), strict=True)
        results = (call(pooling.reference, torch.float32, *chunk)() for chunk in chunks)
        if direction == "forward":
            return torch.cat(list(results))  # type: ignore[arg-type]
        return reduce(torch.add, results)  # type: ignore[arg-type]

    case = Case(
        ours=call(pooling.ours, wanted),
        peer=None,
        expected=reference,
        reads=[rois, features if direction == "forward" else gradient],
        operations=pooling.operations(direction, rois, gradient.numel()),
    )
    if direction == "forward" and pooling.axis is not None:
        case = dataclasses.replace(case, gather=partial(sectors.fetched, features, rois, pooling.axis))
    if not setting.peer:
        return case
    terms = peer_terms(dtype, accepts(pooling, wanted, setting.device), setting.device)
    peer = within(
        pooling.peer_mode or terms.mode, lambda: call(pooling.peer, terms.dtype, rois.to(terms.rois))
    )
    return dataclasses.replace(
        case, peer=peer, expected=lambda: call(pooling.peer, torch.float32)(), note=terms.note
    )


def backward(pool: Pool, features: Tensor, rois: Tensor, gradient: Tensor) -> Call:
    """Only the gradient, again and again; it arrives in the layout of the pool's own output."""
    features = features.detach().requires_grad_()
    output = pool(features, rois)
    arriving = torch.empty_like(output).copy_(gradient)
    return lambda: torch.autograd.grad(output, features, arriving, retain_graph=True)[0]


def accepts(pooling: Pooling, dtype: torch.dtype, device: str) -> bool:
    """Whether the peer's operator is there in this dtype."""
    features = pooling.features(inputs.QUICK, dtype, "contiguous", device)
    try:
        pooling.peer(features, torch.tensor([[0.0, 0.0, 0.0, 8.0, 8.0]], dtype=dtype, device=device))
    except (RuntimeError, NotImplementedError) as error:
        if "not implemented for" not in str(error):
            raise
        return False
    return True


def against_each_other(name: str, ours: Pooling, other: Pooling) -> list[Row]:
    """Rows of one of our operators against another of ours; each is held to its own peer or reference."""
    what = f"{ours.name} against {other.name}, both ours, inputs as in their own rows"
    return _pairs(
        f"{name}/{{}}/float32", (ours, "float32"), (other, "float32"), f"our {other.name}", what, {}
    )


def against_float32(ours: Pooling, targets: Mapping[tuple[str, str], Target]) -> list[Row]:
    """Rows of one operator in bfloat16 against itself in float32; targets on the CPU."""
    what = f"{ours.name} in bfloat16 against float32, both ours, inputs as in their own rows"
    name = f"{ours.name}/{{}}/bfloat16_against_float32"
    return _pairs(name, (ours, "bfloat16"), (ours, "float32"), "our float32", what, targets)


def _pairs(
    name: str,
    ours: tuple[Pooling, str],
    other: tuple[Pooling, str],
    against: str,
    what: str,
    targets: Mapping[tuple[str, str], Target],
) -> list[Row]:
    """Each an operator and a dtype; targets on the CPU by direction and layout."""

    def both(direction: str, layout: str, setting: Setting) -> Case:
        cases = [prepare(pooling, direction, dtype, layout, setting) for pooling, dtype in (ours, other)]
        return dataclasses.replace(cases[0], peer=cases[1].ours, note="")

    return [
        Row(
            name=f"{name.format(direction)}/{layout}",
            prepare=partial(both, direction, layout),
            tolerance=ours[0].tolerances[direction, ours[1]],
            targets={"cpu": targets[direction, layout]} if (direction, layout) in targets else {},
            against=against,
            what=what,
        )
        for direction in ("forward", "backward")
        for layout in inputs.LAYOUTS
    ]
