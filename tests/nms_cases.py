"""Boxes and scores for the tests of the NMS family."""

import torch
from cases import INF, NAN, random_boxes

HOSTILE = [
    0.0,
    -0.0,
    1,
    2,
    3,
    -1,
    5,
    1e30,
    -1e30,
    1e-30,
    1e-40,
    2e-40,
    3e38,
    -3e38,
    INF,
    -INF,
    NAN,
    1e20,
    2**24 + 1,
]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def overlapping_boxes(count, seed=0, dtype=torch.float32):
    """Groups of about ten boxes that are one box, moved a little; sides of 8 to 512 pixels."""
    g = generator(seed)
    clusters = random_boxes(max(1, count // 10), 900.0, 600.0, g, torch.float64)
    clusters[:, 2:] = clusters[:, :2] + 2 ** (3 + 6 * torch.rand(len(clusters), 2, generator=g))
    chosen = clusters[torch.randint(len(clusters), (count,), generator=g)]
    sides = (chosen[:, 2:] - chosen[:, :2]).repeat(1, 2)
    return (chosen + 0.08 * sides * torch.randn(count, 4, generator=g)).to(dtype)


def integer_boxes(count, seed=0, dtype=torch.float32):
    """Small integer boxes, some without inside: IoUs often equal a threshold."""
    g = generator(seed)
    corners, sides = (torch.randint(0, high, (count, 2), generator=g) for high in (16, 11))
    return torch.cat([corners, corners + sides], dim=1).to(dtype)


def spread_boxes(count, seed=0):
    """Boxes of 16 to 64 pixels, as dense whatever their number."""
    g = generator(seed)
    corners = torch.rand(count, 2, generator=g) * 28 * count**0.5
    return torch.cat([corners, corners + 16 + 48 * torch.rand(count, 2, generator=g)], dim=1)


def hostile_boxes(count, seed=0, dtype=torch.float32):
    """Every corner one of few values, most of them hostile; half of the boxes have their corners in order."""
    g = generator(seed)
    boxes = torch.tensor(HOSTILE, dtype=torch.float64)[torch.randint(len(HOSTILE), (count, 4), generator=g)]
    ordered = torch.cat([boxes[:, :2].minimum(boxes[:, 2:]), boxes[:, :2].maximum(boxes[:, 2:])], dim=1)
    return boxes.where(torch.rand(count, 1, generator=g) < 0.5, ordered).to(dtype)


def scores_of(count, seed=0, dtype=torch.float32):
    """Scores with many ties."""
    return torch.randint(0, max(2, count // 2), (count,), generator=generator(seed + 1000)).to(dtype)
