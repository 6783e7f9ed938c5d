"""The inputs of every row, and nowhere else: named functions of a size, seeded, made on the CPU, then moved.

Full size is an image of 800 x 1216 pixels; its map of stride 4 has 200 x 304 cells. ``QUICK`` is a toy size
that only shows that everything runs. Large ones are moved before they are converted, and kept for the next row.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

STRIDE, SENSITIVE_STRIDE = 4, 16
POOLED = 7
SAMPLING_RATIO = 2
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
# Where one layout is timed: what a float32 model usually has, and in what convolutions of halves are fastest.
USUAL_LAYOUT = {"float32": "contiguous", "float16": "channels_last", "bfloat16": "channels_last"}
BATCHES = (2, 8)  # of the rows of many images
NMS_IOU, BATCHED_NMS_IOU = 0.7, 0.5  # as in the RPN and in the box head
PYRAMID_STRIDES = (4, 8, 16, 32, 64)
CLASSES = 80
LARGEST_SIDE = 0.3  # of the image, for RoIs and boxes
_CORNERS = 40  # of an object's polygon


@dataclass(frozen=True)
class Sizes:
    image: tuple[int, int] = (800, 1216)
    channels: int = 256
    scores: int = 21  # output channels of position-sensitive pooling
    images: int = 1
    rois: int = 1000  # of an image
    masks: int = 100
    shrink: int = 1  # divides the numbers of boxes that stand in the rows' names


FULL = Sizes()
QUICK = Sizes(image=(96, 160), channels=8, scores=3, rois=10, masks=4, shrink=100)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@lru_cache(maxsize=16)  # the maps and gradients of an operator's batches
def _normal(shape: tuple[int, ...], seed: int, device: str) -> Tensor:
    return torch.randn(shape, generator=_generator(seed)).to(device)


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
    """[N * R, 5], those of image 0 first."""
    images = torch.arange(float(sizes.images)).repeat_interleave(sizes.rois)
    return torch.cat([images[:, None], boxes(len(images), sizes)], dim=1)


def feature_map(sizes: Sizes, dtype: torch.dtype, layout: str, device: str) -> Tensor:
    """[N, C, H / 4, W / 4], normal."""
    height, width = (side // STRIDE for side in sizes.image)
    features = _normal((sizes.images, sizes.channels, height, width), 6, device)
    return features.to(dtype).contiguous(memory_format=LAYOUTS[layout])


def feature_pyramid(sizes: Sizes, dtype: torch.dtype, layout: str, levels: int, device: str) -> list[Tensor]:
    """[N, C, H / s, W / s] for the first strides s of the pyramid, normal."""
    shapes = [tuple(-(-side // stride) for side in sizes.image) for stride in PYRAMID_STRIDES[:levels]]
    maps = [_normal((sizes.images, sizes.channels, *shape), 11, device) for shape in shapes]
    return [each.to(dtype).contiguous(memory_format=LAYOUTS[layout]) for each in maps]


def pooled_gradient(sizes: Sizes, dtype: torch.dtype, device: str) -> Tensor:
    """[N * R, C, P, P], normal."""
    return _normal((sizes.images * sizes.rois, sizes.channels, POOLED, POOLED), 7, device).to(dtype)


def sensitive_map(sizes: Sizes, dtype: torch.dtype, layout: str, device: str) -> Tensor:
    """[N, C * P * P, H / 16, W / 16], normal."""
    height, width = (side // SENSITIVE_STRIDE for side in sizes.image)
    features = _normal((sizes.images, sizes.scores * POOLED**2, height, width), 13, device)
    return features.to(dtype).contiguous(memory_format=LAYOUTS[layout])


def inner_rois(sizes: Sizes) -> Tensor:
    """The RoIs, ending two and a half cells before the image does: torchvision's gradient of ps_roi_pool in the map's
    last row and column is not that of its forward."""
    height, width = (side - 2.5 * SENSITIVE_STRIDE for side in sizes.image)
    every = rois(sizes)
    return torch.minimum(every, torch.tensor([torch.inf, width, height, width, height]))


def sensitive_gradient(sizes: Sizes, dtype: torch.dtype, device: str) -> Tensor:
    """[N * R, C, P, P], normal."""
    return _normal((sizes.images * sizes.rois, sizes.scores, POOLED, POOLED), 14, device).to(dtype)


def _deltas(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=_generator(seed)) * 0.2


@dataclass(frozen=True)
class Level:
    """One level of the RPN: what it predicts, and its anchors as cell anchors and as boxes."""

    deltas: Tensor  # [N, H * W * 3, 4]
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
    deltas = _deltas(sizes.images, len(anchors), 4, seed=stride)
    return Level(deltas.to(device), cell_anchors.to(device), anchors.to(device), (height, width), stride)


def pyramid(sizes: Sizes, device: str) -> list[Level]:
    """All five levels: 242,991 anchors at full size."""
    return [pyramid_level(stride, sizes, device) for stride in PYRAMID_STRIDES]


def box_head(sizes: Sizes) -> tuple[Tensor, Tensor]:
    """Deltas [R, 91 * 4] of COCO's 91 classes and their proposals [R, 4]."""
    return _deltas(sizes.rois, 91 * 4, seed=8), boxes(sizes.rois, sizes)


def objects(sizes: Sizes, image: int = 0) -> tuple[list[list[list[float]]], Tensor, Tensor]:
    """Of one image: 20 polygons of 40 corners around the middles of boxes; 128 RoIs [R, 4] near those boxes; the object
    of each RoI [R]."""
    generator = _generator(11 + 100 * image)
    shrink = min(sizes.shrink, 10)
    outlines = boxes(max(2, 20 // shrink), sizes, seed=12 + 100 * image)
    angles = torch.linspace(0, 2 * torch.pi, _CORNERS + 1)[:-1]
    circle = torch.stack([angles.cos(), angles.sin()], dim=1)
    polygons = []
    for box in outlines:
        radius = 0.8 + 0.2 * torch.rand(_CORNERS, 1, generator=generator)
        corners = (box[:2] + box[2:]) / 2 + circle * radius * (box[2:] - box[:2]) / 2
        polygons.append([corners.flatten().tolist()])
    matches = torch.arange(128 // shrink) % len(outlines)
    near = outlines[matches] + torch.randn(len(matches), 4, generator=generator) * 3
    near[:, 2:] = torch.maximum(near[:, 2:], near[:, :2] + 2)
    return polygons, near, matches


def pictures(sizes: Sizes) -> list[Tensor]:
    """[3, H, W] of noise, from torch's own generator, which is seeded where the detector is made."""
    return [torch.rand(3, *sizes.image) for _ in range(sizes.images)]


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
