"""The inputs of every row, and nowhere else: named functions of a size, seeded, made on the CPU, then moved.

Full size is an image of 800 x 1216 pixels; its map of stride 4 has 200 x 304 cells. ``QUICK`` is a toy size
that only shows that everything runs.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

STRIDE, SENSITIVE_STRIDE = 4, 16
POOLED = 7
SAMPLING_RATIO = 2
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
NMS_IOU, BATCHED_NMS_IOU = 0.7, 0.5  # as in the RPN and in the box head
PYRAMID_STRIDES = (4, 8, 16, 32, 64)
CLASSES = 80
LARGEST_SIDE = 0.3  # of the image, for RoIs and boxes


@dataclass(frozen=True)
class Sizes:
    image: tuple[int, int] = (800, 1216)
    channels: int = 256
    scores: int = 21  # output channels of position-sensitive pooling
    rois: int = 1000
    masks: int = 100
    shrink: int = 1  # divides the numbers of boxes that stand in the rows' names


FULL = Sizes()
QUICK = Sizes(image=(96, 160), channels=8, scores=3, rois=10, masks=4, shrink=100)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def boxes(count: int, sizes: Sizes, seed: int = 0) -> Tensor:
    """[count, 4] anywhere inside the image, each side uniform from 0.01 to 0.3 of the image's."""
    uniform = torch.rand(count, 2, 2, generator=_generator(seed))
    image = torch.tensor([sizes.image[1], sizes.image[0]], dtype=torch.float32)
    sides = (0.01 + (LARGEST_SIDE - 0.01) * uniform[:, 0]) * image
    corner = uniform[:, 1] * (image - sides)
    return torch.cat([corner, corner + sides], dim=1)


def clustered_boxes(count: int, sizes: Sizes) -> Tensor:
    """[count, 4] as an RPN proposes them: about 20 around each object, corners off by up to 5 % of a side."""
    objects = boxes(max(1, count // 20), sizes, seed=1)
    chosen = objects[torch.randint(len(objects), (count,), generator=_generator(2))]
    sides = (chosen[:, 2:] - chosen[:, :2]).repeat(1, 2)
    return chosen + (torch.rand(count, 4, generator=_generator(3)) - 0.5) * 0.1 * sides


def spread_boxes(count: int) -> Tensor:
    """[count, 4] with sides of 16 to 64 pixels, uniform, in a square that grows with their number."""
    corner = torch.rand(count, 2, generator=_generator(1)) * 28 * count**0.5
    return torch.cat([corner, corner + 16 + 48 * torch.rand(count, 2, generator=_generator(2))], dim=1)


def scores(count: int) -> Tensor:
    """[count] in random order and all different, so that no answer hangs on the order of equal scores."""
    return torch.randperm(count, generator=_generator(4)).float() / count


def classes(count: int) -> Tensor:
    return torch.randint(CLASSES, (count,), generator=_generator(5))


def rois(sizes: Sizes) -> Tensor:
    """[R, 5], all of image 0."""
    return torch.cat([torch.zeros(sizes.rois, 1), boxes(sizes.rois, sizes)], dim=1)


def feature_map(sizes: Sizes, dtype: torch.dtype, layout: str) -> Tensor:
    """[1, C, H / 4, W / 4], normal."""
    height, width = (side // STRIDE for side in sizes.image)
    features = torch.randn(1, sizes.channels, height, width, generator=_generator(6))
    return features.to(dtype).contiguous(memory_format=LAYOUTS[layout])


def feature_pyramid(sizes: Sizes, layout: str, levels: int) -> list[Tensor]:
    """[1, C, H / s, W / s] for the first strides s of the pyramid, normal, float32."""
    shapes = [tuple(-(-side // stride) for side in sizes.image) for stride in PYRAMID_STRIDES[:levels]]
    maps = [torch.randn(1, sizes.channels, *shape, generator=_generator(11)) for shape in shapes]
    return [each.contiguous(memory_format=LAYOUTS[layout]) for each in maps]


def pooled_gradient(sizes: Sizes, dtype: torch.dtype) -> Tensor:
    """[R, C, P, P], normal."""
    shape = (sizes.rois, sizes.channels, POOLED, POOLED)
    return torch.randn(shape, generator=_generator(7)).to(dtype)


def sensitive_map(sizes: Sizes, dtype: torch.dtype, layout: str) -> Tensor:
    """[1, C * P * P, H / 16, W / 16], normal."""
    shape = (1, sizes.scores * POOLED**2, *(side // SENSITIVE_STRIDE for side in sizes.image))
    return torch.randn(shape, generator=_generator(13)).to(dtype).contiguous(memory_format=LAYOUTS[layout])


def inner_rois(sizes: Sizes) -> Tensor:
    """The RoIs, ending two and a half cells before the image does: torchvision's gradient of ps_roi_pool in the map's
    last row and column is not that of its forward."""
    height, width = (side - 2.5 * SENSITIVE_STRIDE for side in sizes.image)
    every = rois(sizes)
    return torch.minimum(every, torch.tensor([torch.inf, width, height, width, height]))


def sensitive_gradient(sizes: Sizes, dtype: torch.dtype) -> Tensor:
    """[R, C, P, P], normal."""
    shape = (sizes.rois, sizes.scores, POOLED, POOLED)
    return torch.randn(shape, generator=_generator(14)).to(dtype)


def _deltas(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=_generator(seed)) * 0.2


@dataclass(frozen=True)
class Level:
    """One level of the RPN: what it predicts, and its anchors as cell anchors and as boxes."""

    deltas: Tensor  # [1, H * W * 3, 4]
    cell_anchors: Tensor  # [3, 4]
    anchors: Tensor  # [H * W * 3, 4]
    grid: tuple[int, int]
    stride: int


def pyramid_level(stride: int, sizes: Sizes, device: str) -> Level:
    """Three anchors (1:2, 1:1, 2:1) with the area of a square of 8 strides."""
    height, width = (-(-side // stride) for side in sizes.image)
    ratio = torch.tensor([0.5, 1.0, 2.0]).sqrt()
    half = torch.stack([1 / ratio, ratio], dim=1) * 4 * stride
    cell_anchors = torch.cat([-half, half], dim=1).round()
    y, x = torch.meshgrid(torch.arange(height) * stride, torch.arange(width) * stride, indexing="ij")
    shifts = torch.stack([x, y, x, y], dim=2).reshape(-1, 1, 4).float()
    anchors = (shifts + cell_anchors).reshape(-1, 4)
    deltas = _deltas(1, len(anchors), 4, seed=stride)
    return Level(deltas.to(device), cell_anchors.to(device), anchors.to(device), (height, width), stride)


def pyramid(sizes: Sizes, device: str) -> list[Level]:
    """All five levels: 242,991 anchors at full size."""
    return [pyramid_level(stride, sizes, device) for stride in PYRAMID_STRIDES]


def box_head(sizes: Sizes) -> tuple[Tensor, Tensor]:
    """Deltas [R, 91 * 4] of COCO's 91 classes and their proposals [R, 4]."""
    return _deltas(sizes.rois, 91 * 4, seed=8), boxes(sizes.rois, sizes)


def masks(sizes: Sizes) -> tuple[Tensor, Tensor]:
    """Smooth probabilities [D, 1, 28, 28] and boxes [D, 4]."""
    coarse = torch.randn(sizes.masks, 1, 7, 7, generator=_generator(9)) * 4
    logits = torch.nn.functional.interpolate(coarse, size=(28, 28), mode="bilinear")
    return logits.sigmoid(), boxes(sizes.masks, sizes, seed=10)


def heatmaps(sizes: Sizes) -> tuple[Tensor, Tensor]:
    """Smooth logits [D / 5, 17, 56, 56] and boxes [D / 5, 4]: people and their keypoints."""
    people = max(1, sizes.masks // 5)
    coarse = torch.randn(people, 17, 7, 7, generator=_generator(11)) * 4
    maps = torch.nn.functional.interpolate(coarse, size=(56, 56), mode="bilinear")
    return maps, boxes(people, sizes, seed=12)
