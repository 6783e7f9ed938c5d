"""Draws the textured backgrounds and the shapes of `shapes.py` into float32 canvases [3, H, W], values 0 to
255."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

CIRCLE, RECTANGLE, TRIANGLE, STAR = range(4)

_MIN_RADIUS = 6.0  # pixels
_CONTRAST = 70  # by which one channel at least differs from the background's average


@dataclass(frozen=True)
class Shape:
    """A shape in its place: all that drawing and masks need."""

    kind: int
    window: tuple[slice, slice]  # rows and columns of the picture that it touches
    inside: np.ndarray  # bool, over the window: pixels whose centre lies in the shape
    colour: np.ndarray  # float32 [3]
    slope: tuple[float, float]  # brightness gradient, per pixel of y and x
    stripes: float  # their period in pixels, 0 for none


def draw_background(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Two colours blended by a random pattern, crossed by thin strokes."""
    pattern = (_blobs, _stripes, _chequers)[rng.integers(3)](rng, height, width)
    first, second = rng.uniform(20, 235, (2, 3)).astype(np.float32)
    second = first + (second - first) * np.float32(rng.uniform(0.2, 0.7))  # textures are fainter than shapes
    canvas = first[:, None, None] + pattern * (second - first)[:, None, None]
    y, x = _coordinates(height, width)
    for _ in range(rng.integers(4)):
        angle = rng.uniform(0, math.pi)
        normal_y, normal_x = np.float32(math.sin(angle)), np.float32(math.cos(angle))
        distance = (y - rng.uniform(0, height)) * normal_y + (x - rng.uniform(0, width)) * normal_x
        np.copyto(canvas, rng.uniform(0, 255, (3, 1, 1)), where=np.abs(distance) < rng.uniform(0.7, 2.0))
    return canvas


def place_shape(
    rng: np.random.Generator, height: int, width: int, background: np.ndarray, radii: tuple[float, float]
) -> Shape:
    """A random shape in a random place; its centre is well inside the picture. Radii are over the shorter side."""
    kind = int(rng.integers(4))
    radius = max(_MIN_RADIUS, rng.uniform(*radii) * min(height, width))
    centre_y = rng.uniform(0.6 * radius, height - 0.6 * radius)
    centre_x = rng.uniform(0.6 * radius, width - 0.6 * radius)
    rows = slice(max(0, math.floor(centre_y - radius)), min(height, math.ceil(centre_y + radius)))
    columns = slice(max(0, math.floor(centre_x - radius)), min(width, math.ceil(centre_x + radius)))
    y = (np.arange(rows.start, rows.stop, dtype=np.float32) + np.float32(0.5 - centre_y))[:, None]
    x = (np.arange(columns.start, columns.stop, dtype=np.float32) + np.float32(0.5 - centre_x))[None, :]
    angle = rng.uniform(0, 2 * math.pi)
    u = math.cos(angle) * x + math.sin(angle) * y
    v = math.cos(angle) * y - math.sin(angle) * x
    inside = (_in_circle, _in_rectangle, _in_triangle, _in_star)[kind](rng, u, v, radius)

    candidates = rng.uniform(0, 255, (8, 3)).astype(np.float32)
    stands_out = np.abs(candidates - background).max(axis=1) >= _CONTRAST
    slope, direction = rng.uniform(0, 35) / radius, rng.uniform(0, 2 * math.pi)
    return Shape(
        kind=kind,
        window=(rows, columns),
        inside=inside,
        colour=candidates[np.argmax(stands_out)],
        slope=(slope * math.sin(direction), slope * math.cos(direction)),
        stripes=float(rng.uniform(4, 10)) if rng.random() < 0.3 else 0.0,
    )


def draw_shape(rng: np.random.Generator, canvas: np.ndarray, shape: Shape) -> None:
    """Fill the shape's pixels with its colour, shaded and perhaps striped."""
    height, width = shape.inside.shape
    y, x = _coordinates(height, width)
    shade = (y - height / 2) * np.float32(shape.slope[0]) + (x - width / 2) * np.float32(shape.slope[1])
    if shape.stripes:
        angle = rng.uniform(0, math.pi)
        phase = (y * math.sin(angle) + x * math.cos(angle)) * np.float32(2 * math.pi / shape.stripes)
        shade = shade + np.where(np.sin(phase) > 0, np.float32(25), np.float32(-25))
    rows, columns = shape.window
    np.copyto(canvas[:, rows, columns], shape.colour[:, None, None] + shade, where=shape.inside)


def add_grain(rng: np.random.Generator, canvas: np.ndarray) -> None:
    """Add noise, uniform from -16 to 15, to every value: 5 bits of each byte of long numbers."""
    numbers = rng.integers(0, 2**64, size=-(-canvas.size // 8), dtype=np.uint64)
    canvas += (numbers.view(np.int8)[: canvas.size] >> 3).reshape(canvas.shape)


# -------------------------------- patterns: float32 [H, W], 0 to 1


def _blobs(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A coarse grid of random values, interpolated linearly."""
    cells = int(rng.integers(4, 12))
    grid = rng.random((cells, cells), dtype=np.float32)
    return _interpolation(height, cells) @ grid @ _interpolation(width, cells).T


def _interpolation(length: int, cells: int) -> np.ndarray:
    """float32 [length, cells]: the weights of the grid's values for each pixel along one axis."""
    places = np.linspace(0, cells - 1, length, dtype=np.float32)[:, None]
    return np.maximum(0, 1 - np.abs(places - np.arange(cells, dtype=np.float32)))


def _stripes(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    y, x = _coordinates(height, width)
    angle, period = rng.uniform(0, math.pi), rng.uniform(6, 30)
    step_y, step_x = (
        np.float32(2 * math.pi * math.sin(angle) / period),
        np.float32(2 * math.pi * math.cos(angle) / period),
    )
    return 0.5 + 0.5 * np.sin(y * step_y + x * step_x)


def _chequers(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    y, x = _coordinates(height, width)
    side = rng.uniform(5, 20)
    odd_row = np.floor((y + rng.uniform(0, side)) / side) % 2 == 1
    odd_column = np.floor((x + rng.uniform(0, side)) / side) % 2 == 1
    return (odd_row ^ odd_column).astype(np.float32)


def _coordinates(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixel centres, float32 [H, 1] and [1, W]."""
    y, x = np.arange(height, dtype=np.float32) + 0.5, np.arange(width, dtype=np.float32) + 0.5
    return y[:, None], x[None, :]


# -------------------------------- shapes: u, v relative to the centre, in the shape's frame


def _in_circle(rng: np.random.Generator, u: np.ndarray, v: np.ndarray, radius: float) -> np.ndarray:
    return u * u + v * v <= radius * radius


def _in_rectangle(rng: np.random.Generator, u: np.ndarray, v: np.ndarray, radius: float) -> np.ndarray:
    diagonal = rng.uniform(0.35, math.pi / 2 - 0.35)  # its angle: from about 1:3 to 3:1
    return (np.abs(u) <= radius * math.cos(diagonal)) & (np.abs(v) <= radius * math.sin(diagonal))


def _in_triangle(rng: np.random.Generator, u: np.ndarray, v: np.ndarray, radius: float) -> np.ndarray:
    """Corners on the circle, a third of it apart give or take 20 degrees."""
    angles = np.arange(3) * (2 * math.pi / 3) + rng.uniform(-0.35, 0.35, 3)
    corners = [(radius * math.cos(angle), radius * math.sin(angle)) for angle in angles]
    inside = np.ones(u.shape, dtype=bool)
    for (u0, v0), (u1, v1) in zip(corners, corners[1:] + corners[:1], strict=True):
        inside &= (u1 - u0) * (v - v0) - (v1 - v0) * (u - u0) >= 0
    return inside


def _in_star(rng: np.random.Generator, u: np.ndarray, v: np.ndarray, radius: float) -> np.ndarray:
    """Five points. Folded into a tenth of the circle it is one edge, from an outer to an inner corner."""
    sector = 2 * math.pi / 5
    angle = np.abs((np.arctan2(v, u) + sector / 2) % sector - sector / 2)
    distance = np.hypot(u, v)
    inner = rng.uniform(0.38, 0.5) * radius
    edge_u, edge_v = inner * math.cos(sector / 2) - radius, inner * math.sin(sector / 2)
    return edge_u * (distance * np.sin(angle)) - edge_v * (distance * np.cos(angle) - radius) >= 0
