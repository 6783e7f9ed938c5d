"""What the rows of the pooling operators share: forward and backward, in each dtype and layout."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from benchmarks import inputs
from benchmarks.harness import Call, Case, Row, Setting

Pool = Callable[[Tensor, Tensor], Tensor]
REFERENCE_CHUNK = 50  # RoIs at a time: the reference's intermediate results are large


@dataclass(frozen=True)
class Pooling:
    """One operator from three hands; `peer` imports torchvision when it is called."""

    name: str
    ours: Pool
    peer: Pool
    reference: Pool
    tolerances: dict[tuple[str, str], float]  # by direction and dtype
    targets: dict[tuple[str, str], float]  # by direction and layout, in float32
    operations: Callable[[str, Tensor, int], float]  # of the direction, for these RoIs and so many outputs
    features: Callable[[inputs.Sizes, torch.dtype, str], Tensor] = inputs.feature_map
    rois: Callable[[inputs.Sizes], Tensor] = inputs.rois
    gradient: Callable[[inputs.Sizes, torch.dtype], Tensor] = inputs.pooled_gradient
    what: str = "1000 RoIs, 256 x 200 x 304 map of stride 4, 7 x 7"


def rows(pooling: Pooling) -> list[Row]:
    return [
        Row(
            name=f"{pooling.name}/{direction}/{dtype}/{layout}",
            prepare=partial(prepare, pooling, direction, dtype, layout),
            tolerance=pooling.tolerances[direction, dtype],
            at_least=pooling.targets.get((direction, layout)) if dtype == "float32" else None,
            what=pooling.what
            + (", only the gradient, the forward's graph kept" if direction == "backward" else ""),
        )
        for direction, dtype in pooling.tolerances
        for layout in inputs.LAYOUTS
    ]


def prepare(pooling: Pooling, direction: str, dtype: str, layout: str, setting: Setting) -> Case:
    wanted = inputs.DTYPES[dtype]
    features = pooling.features(setting.sizes, wanted, layout).to(setting.device)
    rois = pooling.rois(setting.sizes).to(setting.device)
    gradient = pooling.gradient(setting.sizes, wanted).to(setting.device)

    def call(pool: Pool, dtype: torch.dtype, rois: Tensor = rois, gradient: Tensor = gradient) -> Call:
        if direction == "forward":
            converted = features.to(dtype)
            return lambda: pool(converted, rois)
        return backward(pool, features.to(dtype), rois, gradient.to(dtype))

    def reference() -> Tensor:
        chunks = zip(rois.split(REFERENCE_CHUNK), gradient.split(REFERENCE_CHUNK), strict=True)
        results = [call(pooling.reference, torch.float32, *chunk)() for chunk in chunks]
        return torch.cat(results) if direction == "forward" else torch.stack(results).sum(0)  # type: ignore[arg-type]

    reads = [rois, features if direction == "forward" else gradient]
    ours = call(pooling.ours, wanted)
    operations = pooling.operations(direction, rois, gradient.numel())
    if not setting.peer:
        return Case(ours, None, reference, reads, operations=operations)
    native = accepts(pooling, wanted, setting.device)
    peer = call(pooling.peer, wanted if native else torch.float32)
    note = "" if native else f"torchvision has no {dtype}: its float32, conversion not counted"
    return Case(ours, peer, peer, reads, note, operations)


def backward(pool: Pool, features: Tensor, rois: Tensor, gradient: Tensor) -> Call:
    """Only the gradient, again and again; it arrives in the layout of the pool's own output."""
    features = features.detach().requires_grad_()
    output = pool(features, rois)
    arriving = torch.empty_like(output).copy_(gradient)
    return lambda: torch.autograd.grad(output, features, arriving, retain_graph=True)[0]


def accepts(pooling: Pooling, dtype: torch.dtype, device: str) -> bool:
    """Whether the peer's operator is there in this dtype."""
    features = pooling.features(inputs.QUICK, dtype, "contiguous").to(device)
    try:
        pooling.peer(features, torch.tensor([[0.0, 0.0, 0.0, 8.0, 8.0]], device=device))
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


def against_float32(ours: Pooling, targets: dict[tuple[str, str], float]) -> list[Row]:
    """Rows of one operator in bfloat16 against itself in float32."""
    what = f"{ours.name} in bfloat16 against float32, both ours, inputs as in their own rows"
    name = f"{ours.name}/{{}}/bfloat16_against_float32"
    return _pairs(name, (ours, "bfloat16"), (ours, "float32"), "our float32", what, targets)


def _pairs(
    name: str,
    ours: tuple[Pooling, str],
    other: tuple[Pooling, str],
    against: str,
    what: str,
    targets: dict[tuple[str, str], float],
) -> list[Row]:
    """Each an operator and a dtype; targets by direction and layout."""

    def both(direction: str, layout: str, setting: Setting) -> Case:
        cases = [prepare(pooling, direction, dtype, layout, setting) for pooling, dtype in (ours, other)]
        return dataclasses.replace(cases[0], peer=cases[1].ours, note="")

    return [
        Row(
            name=f"{name.format(direction)}/{layout}",
            prepare=partial(both, direction, layout),
            tolerance=ours[0].tolerances[direction, ours[1]],
            at_least=targets.get((direction, layout)),
            against=against,
            what=what,
        )
        for direction in ("forward", "backward")
        for layout in inputs.LAYOUTS
    ]
