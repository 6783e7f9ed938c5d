"""Pictures to look at: detections drawn over images, and contact sheets. Pillow only."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from maskrcnn.results import decode_mask

if TYPE_CHECKING:
    from maskrcnn.data import Category

Colour = tuple[int, int, int]
Box = tuple[float, float, float, float]
Masks = Tensor | Sequence[dict[str, Any]]


def instance_colours(count: int) -> list[Colour]:
    """``count`` bright RGB colours; neighbours in the list are far apart in hue (golden-ratio steps)."""
    tones = ((0.58, 0.95), (0.50, 0.80), (0.68, 0.90))
    colours = []
    for number in range(count):
        hue = (0.55 + number * 0.618034) % 1
        lightness, saturation = tones[number // 5 % len(tones)]
        red, green, blue = (255 * part for part in colorsys.hls_to_rgb(hue, lightness, saturation))
        # Blues and violets look dark at the same lightness: mix in white until they stand out on black.
        white = max(0.0, min(1.0, (110 - _luminance((red, green, blue))) / 145))
        mixed = [round(part + white * (255 - part)) for part in (red, green, blue)]
        colours.append((mixed[0], mixed[1], mixed[2]))
    return colours


def to_picture(image: Tensor | Image.Image) -> Image.Image:
    """An RGB Pillow image of a uint8 tensor [3, H, W] or of any Pillow image.

    Raises:
        ValueError: for a tensor of another shape or dtype.
    """
    if isinstance(image, Image.Image):
        return image.convert("RGB")
    if image.ndim != 3 or image.shape[0] != 3 or str(image.dtype) != "torch.uint8":
        raise ValueError(f"expected a uint8 image [3, H, W], got {image.dtype} {list(image.shape)}")
    return Image.fromarray(image.permute(1, 2, 0).contiguous().cpu().numpy())


def draw_instances(
    image: Tensor | Image.Image,
    boxes: Tensor,
    masks: Masks | None = None,
    labels: Tensor | None = None,
    scores: Tensor | None = None,
    categories: Sequence[Category] = (),
    *,
    keypoints: Tensor | None = None,
    opacity: float = 0.4,
    smallest_side: int = 800,
) -> Image.Image:
    """Draw instances over an image: tinted mask with its outline, box, skeleton, and a tag with label and score.

    Each instance has a colour of its own. Small images are enlarged by a whole number until their longer side
    reaches ``smallest_side`` pixels, so that tags stay legible.

    Args:
        image: uint8 [3, H, W] or a Pillow image.
        boxes: [D, 4], xyxy in the image's pixels.
        masks: bool [D, H, W], or D COCO RLE dicts, which are decoded one at a time.
        labels: int64 [D] from 1; label i + 1 is named ``categories[i]``, other labels show as numbers.
        scores: [D], shown with two decimals; earlier tags get the better places, so pass the best first.
        keypoints: [D, K, 3] (x, y, visibility) in the image's pixels, joined as the skeleton of the instance's
            category says; those of visibility 0 are left out.
        opacity: of the tint inside the masks, from 0 to 1.

    Raises:
        ValueError: if the image is of another kind, or ``masks, labels, scores, keypoints`` do not have D
            entries.
    """
    picture = to_picture(image)
    given = {"masks": masks, "labels": labels, "scores": scores, "keypoints": keypoints}
    for name, values in given.items():
        if values is not None and len(values) != len(boxes):
            raise ValueError(
                f"draw_instances: expected {len(boxes)} {name}, one for each box, got {len(values)}"
            )
    zoom = max(1, math.ceil(smallest_side / max(picture.size)))
    if zoom > 1:
        picture = picture.resize((picture.width * zoom, picture.height * zoom), Image.Resampling.BICUBIC)
    colours = instance_colours(len(boxes))
    corners: list[Box] = [tuple(zoom * value for value in box) for box in boxes.tolist()]
    stroke = max(1, round(max(picture.size) / 640))
    if masks is not None:
        _draw_masks(picture, masks, colours, zoom, opacity, stroke)

    draw = ImageDraw.Draw(picture)
    for (x0, y0, x1, y1), colour in zip(corners, colours, strict=True):
        x1, y1 = max(x0, x1 - 1), max(y0, y1 - 1)
        draw.rectangle((x0 - 1, y0 - 1, x1 + 1, y1 + 1), outline=(0, 0, 0))
        draw.rectangle((x0, y0, x1, y1), outline=colour, width=stroke)
    if keypoints is not None:
        limbs = [_limbs(place, labels, categories) for place in range(len(boxes))]
        _draw_skeletons(draw, keypoints, limbs, colours, zoom, stroke)
    tags = [_tag(place, labels, scores, categories) for place in range(len(boxes))]
    _draw_tags(draw, picture.size, corners, tags, colours)
    return picture


def _draw_masks(
    picture: Image.Image, masks: Masks, colours: list[Colour], zoom: int, opacity: float, stroke: int
) -> None:
    """Large masks first, so that small ones in front of them stay visible."""
    crops = list(_crops(masks))
    for place in sorted(range(len(crops)), key=lambda k: -int(crops[k][0].sum())):
        bitmap, (left, top) = crops[place]
        if not bitmap.size:
            continue
        # The border leaves room for the halo; enlarging smoothly and cutting at a half rounds the steps.
        grey = Image.fromarray(np.pad(bitmap, stroke).astype(np.uint8) * 255)
        grey = grey.resize((grey.width * zoom, grey.height * zoom), Image.Resampling.BICUBIC)
        inside = np.asarray(grey) >= 128
        outline = inside & _dilate(~inside, stroke + (zoom > 1))
        halo = _dilate(inside, stroke) & ~inside  # dark, so that an outline shows on its own colour
        corner = ((left - stroke) * zoom, (top - stroke) * zoom)
        picture.paste((0, 0, 0), corner, _weights(0.6 * halo))
        picture.paste(colours[place], corner, _weights(np.where(outline, 1.0, opacity * inside)))


def _weights(alpha: np.ndarray) -> Image.Image:
    return Image.fromarray((255 * alpha).astype(np.uint8))


def _crops(masks: Masks) -> Iterator[tuple[np.ndarray, tuple[int, int]]]:
    """The part of each bitmap that holds its ones, with its place (left, top)."""
    for mask in masks:
        bitmap = decode_mask(mask) if isinstance(mask, dict) else mask.cpu().numpy().astype(bool)
        rows, columns = np.flatnonzero(bitmap.any(axis=1)), np.flatnonzero(bitmap.any(axis=0))
        if rows.size == 0:
            yield bitmap[:0, :0], (0, 0)
            continue
        top, left = int(rows[0]), int(columns[0])
        yield bitmap[top : rows[-1] + 1, left : columns[-1] + 1].copy(), (left, top)


def _dilate(bitmap: np.ndarray, times: int) -> np.ndarray:
    for _ in range(times):
        p = np.pad(bitmap, 1)
        bitmap = p[1:-1, 1:-1] | p[:-2, 1:-1] | p[2:, 1:-1] | p[1:-1, :-2] | p[1:-1, 2:]
    return bitmap


def _limbs(place: int, labels: Tensor | None, categories: Sequence[Category]) -> Sequence[tuple[int, int]]:
    label = 1 if labels is None else int(labels[place])
    return categories[label - 1].skeleton if 1 <= label <= len(categories) else ()


def _draw_skeletons(
    draw: ImageDraw.ImageDraw,
    keypoints: Tensor,
    limbs: Sequence[Sequence[tuple[int, int]]],
    colours: list[Colour],
    zoom: int,
    stroke: int,
) -> None:
    """Limbs in the instance's colour and white dots, both with a dark rim that shows on any background."""
    radius = 1.5 * stroke + 1
    for points, pairs, colour in zip(keypoints.tolist(), limbs, colours, strict=True):
        places = [(zoom * x, zoom * y) if visible > 0 else None for x, y, visible in points]
        ends = [(places[first - 1], places[second - 1]) for first, second in pairs]
        for ink, width in (((0, 0, 0), 2 * stroke + 2), (colour, 2 * stroke)):
            for start, end in ends:
                if start is not None and end is not None:
                    draw.line((*start, *end), fill=ink, width=width)
        for spot in places:
            if spot is not None:
                (x, y), white = spot, (255, 255, 255)
                disc = (x - radius, y - radius, x + radius, y + radius)
                draw.ellipse(disc, fill=white, outline=(0, 0, 0))


def _tag(place: int, labels: Tensor | None, scores: Tensor | None, categories: Sequence[Category]) -> str:
    words = []
    if labels is not None:
        label = int(labels[place])
        words.append(categories[label - 1].name if 1 <= label <= len(categories) else str(label))
    if scores is not None:
        words.append(f"{float(scores[place]):.2f}")
    return " ".join(words)


def _draw_tags(
    draw: ImageDraw.ImageDraw, size: tuple[int, int], boxes: list[Box], tags: list[str], colours: list[Colour]
) -> None:
    """Each tag at the place beside its box where it hides the least of earlier tags and of the objects."""
    if not any(tags):
        return
    objects = np.array(boxes)
    taken = np.zeros((0, 4))
    font = _font(size, tags)
    for box, tag, colour in zip(boxes, tags, colours, strict=True):
        left, top, right, bottom = draw.textbbox((0, 0), tag, font=font)
        pad = max(1.0, 0.15 * (bottom - top))
        spots = _spots(box, right - left + 2 * pad, bottom - top + 2 * pad, size)
        cost = 4 * _overlaps(spots, taken) + _overlaps(spots, objects)
        spot = spots[int(np.argmin(cost))]
        taken = np.concatenate([taken, spot[None]])
        draw.rounded_rectangle(tuple(spot), radius=pad, fill=colour)
        draw.text((spot[0] + pad - left, spot[1] + pad - top), tag, font=font, fill=_ink(colour))


def _font(size: tuple[int, int], tags: list[str]) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    """In crowded pictures tags shrink until they cover a tenth of it, but never below what can be read."""
    characters = sum(map(len, tags))
    fits = math.sqrt(
        0.1 * size[0] * size[1] / (0.75 * characters)
    )  # a character takes about 0.75 of size squared
    return ImageFont.load_default(size=max(11.0, min(fits, max(size) / 56)))


def _spots(box: Box, width: float, height: float, size: tuple[int, int]) -> np.ndarray:
    """Places for a tag [6, 4]: above, below and inside the box, left or right, pushed into the picture."""
    x0, y0, x1, y1 = box
    corners = [
        (x0, y0 - height),
        (x1 - width, y0 - height),
        (x0, y1),
        (x1 - width, y1),
        (x0, y0),
        (x0, y1 - height),
    ]
    low = np.clip(np.array(corners), 0, [max(0.0, size[0] - width), max(0.0, size[1] - height)])
    return np.concatenate([low, low + np.array([width, height])], axis=1)


def _overlaps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The area of each box of ``a`` [S, 4] that boxes of ``b`` [L, 4] cover, summed over ``b``: [S]."""
    sides = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])
    areas: np.ndarray = np.prod(np.clip(sides, 0, None), axis=-1).sum(axis=-1)
    return areas


def _luminance(colour: tuple[float, float, float]) -> float:
    red, green, blue = colour
    return 0.299 * red + 0.587 * green + 0.114 * blue


def _ink(colour: Colour) -> Colour:
    """Black or white, whichever reads better on ``colour``."""
    return (0, 0, 0) if _luminance(colour) > 140 else (255, 255, 255)


def contact_sheet(
    images: Sequence[Tensor | Image.Image], columns: int | None = None, cell: int = 256, gap: int = 8
) -> Image.Image:
    """Pictures in a grid, each scaled to fit a square of ``cell`` pixels.

    Args:
        columns: pictures in a row; by default as many as make the sheet about square.

    Raises:
        ValueError: without pictures, or for a picture of a kind that ``to_picture`` refuses.
    """
    if not images:
        raise ValueError("contact_sheet: expected at least one picture, got none")
    columns = columns or math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    sheet = Image.new("RGB", (columns * (cell + gap) + gap, rows * (cell + gap) + gap), (250, 250, 250))
    for place, image in enumerate(images):
        picture = to_picture(image)
        scale = cell / max(picture.size)
        width, height = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
        picture = picture.resize((width, height), Image.Resampling.LANCZOS)
        row, column = divmod(place, columns)
        sheet.paste(
            picture,
            (
                gap + column * (cell + gap) + (cell - width) // 2,
                gap + row * (cell + gap) + (cell - height) // 2,
            ),
        )
    return sheet
