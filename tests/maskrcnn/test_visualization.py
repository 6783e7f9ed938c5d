"""What overlays, contact sheets and curves must show; how they look was judged by eye."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from maskrcnn.plots import _plot_precision, plot_metrics
from maskrcnn.results import encode_masks
from maskrcnn.visualization import contact_sheet, draw_instances, instance_colours, to_picture

CATEGORIES = (SimpleNamespace(id=3, name="cat"),)


def scene() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A black 60 x 80 image with a disc and, off the diagonal, a square."""
    y, x = torch.meshgrid(torch.arange(60), torch.arange(80), indexing="ij")
    disc = (x - 20) ** 2 + (y - 30) ** 2 < 12**2
    square = (x >= 50) & (x < 70) & (y >= 10) & (y < 30)
    boxes = torch.tensor([[9.0, 19.0, 32.0, 42.0], [50.0, 10.0, 70.0, 30.0]])
    return torch.zeros(3, 60, 80, dtype=torch.uint8), boxes, torch.stack([disc, square])


def test_masks_are_tinted_each_in_its_colour_and_the_rest_is_left() -> None:
    image, boxes, masks = scene()
    drawn = np.asarray(draw_instances(image, boxes, masks, smallest_side=80, opacity=0.5)).astype(int)
    first, second = instance_colours(2)
    assert abs(drawn[30, 20] - np.array(first) / 2).max() <= 1
    assert abs(drawn[20, 60] - np.array(second) / 2).max() <= 1
    assert (drawn[20, 50] == second).all(), "the outline has the full colour"
    assert not drawn[50:, 40:].any()
    assert not drawn[20, 34:48].any()


def test_run_lengths_draw_as_bitmaps_do() -> None:
    image, boxes, masks = scene()
    a, b = (draw_instances(image, boxes, m, torch.tensor([1, 1])) for m in (masks, encode_masks(masks)))
    assert a.tobytes() == b.tobytes()


def test_small_images_are_enlarged_by_whole_numbers_and_large_ones_kept() -> None:
    image, boxes, masks = scene()
    assert draw_instances(image, boxes, masks).size == (800, 600)
    assert draw_instances(image, boxes, masks, smallest_side=100).size == (160, 120)
    large = Image.new("RGB", (1000, 30))
    assert draw_instances(large, boxes).size == large.size


def test_tags_carry_names_and_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    written = []
    from PIL import ImageDraw

    draw_text = ImageDraw.ImageDraw.text

    def record(self: ImageDraw.ImageDraw, xy: tuple[float, float], text: str, **options: object) -> None:
        written.append((xy, text))
        draw_text(self, xy, text, **options)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", record)
    image, boxes, _ = scene()
    draw_instances(image, boxes, None, torch.tensor([1, 9]), torch.tensor([0.987, 0.5]), CATEGORIES)
    assert [text for _, text in written] == ["cat 0.99", "9 0.50"]
    assert all(0 <= x < 800 and 0 <= y < 600 for (x, y), _ in written)


def test_tags_avoid_one_another() -> None:
    """Two equal boxes get their tags at two places: both colours are seen in full."""
    image = torch.zeros(3, 200, 200, dtype=torch.uint8)
    boxes = torch.tensor([[50.0, 50.0, 150.0, 150.0]]).repeat(2, 1)
    drawn = np.asarray(draw_instances(image, boxes, None, torch.tensor([1, 1]), None, CATEGORIES)).reshape(
        -1, 3
    )
    first, second = (int((drawn == colour).all(1).sum()) for colour in instance_colours(2))
    assert first > 150
    assert second > 150


@pytest.mark.parametrize("masks", [None, torch.zeros(0, 60, 80, dtype=torch.bool)])
def test_nothing_found_leaves_the_picture(masks: torch.Tensor | None) -> None:
    image, _, _ = scene()
    image[0] = 200
    none = torch.zeros(0, dtype=torch.int64)
    drawn = draw_instances(image, torch.zeros(0, 4), masks, none, none.float(), CATEGORIES, smallest_side=1)
    assert drawn.tobytes() == to_picture(image).tobytes()


def test_odd_instances_do_not_break_the_drawing() -> None:
    image, _, _ = scene()
    boxes = torch.tensor([[5.0, 5.0, 5.0, 5.0], [-20.0, -20.0, 500.0, 500.0], [79.5, 59.5, 80.0, 60.0]])
    masks = torch.zeros(3, 60, 80, dtype=torch.bool)  # the first is empty
    masks[1] = True  # the whole picture
    masks[2, 59, 79] = True  # a corner pixel
    draw_instances(image, boxes, masks, torch.tensor([1, 1, 1]), torch.ones(3), CATEGORIES)


def test_what_does_not_fit_is_named() -> None:
    image, boxes, masks = scene()
    with pytest.raises(ValueError, match="expected 2 masks, one for each box, got 1"):
        draw_instances(image, boxes, masks[:1])
    with pytest.raises(ValueError, match=r"expected a uint8 image \[3, H, W\], got torch.float32"):
        draw_instances(image.float(), boxes)
    with pytest.raises(ValueError, match="at least one picture"):
        contact_sheet([])


def test_colours_of_neighbours_differ() -> None:
    colours = np.array(instance_colours(300), dtype=float)
    for distance in (1, 2, 3):
        assert np.abs(colours[distance:] - colours[:-distance]).max(axis=1).min() > 40
    assert (colours @ [0.299, 0.587, 0.114]).min() > 95, "visible on black"


def test_contact_sheet_places_pictures_in_rows() -> None:
    images = [torch.full((3, 20, 40), 50 * k, dtype=torch.uint8) for k in range(5)]
    sheet = np.asarray(contact_sheet(images, columns=3, cell=40, gap=4))
    assert sheet.shape == (2 * 44 + 4, 3 * 44 + 4, 3)
    middles = [sheet[4 + 44 * (k // 3) + 20, 4 + 44 * (k % 3) + 20, 0] for k in range(5)]
    assert middles == [0, 50, 100, 150, 200]


def metrics_file(folder: Path, evaluated: bool = True) -> Path:
    records = [
        {
            "step": step,
            "loss": 2.0 / step,
            "losses": {"loss_mask": 1.0 / step, "loss_box_reg": None},
            "lr": 0.01,
        }
        for step in range(1, 60)
    ]
    if evaluated:
        records.append({"step": 59, "evaluation": {"bbox/AP": 0.3, "segm/AP": 0.2}})
    path = folder / "metrics.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_every_kind_of_precision_is_drawn() -> None:
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    axis = Figure().subplots()
    _plot_precision(axis, [{"step": 5, "evaluation": {"bbox/AP": 0.3, "segm/AP": 0.2, "keypoints/AP": 0.1}}])
    labels = [text.get_text() for text in axis.get_legend().get_texts()]
    assert labels == ["box AP 0.300", "mask AP 0.200", "keypoint AP 0.100"]


def test_curves_are_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for evaluated, width in ((True, 1820), (False, 1300)):
        picture = plot_metrics(metrics_file(tmp_path, evaluated), tmp_path / "curves.png")
        with Image.open(picture) as drawn:
            assert drawn.width == width


def test_curves_of_an_empty_run_are_an_error(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(ValueError, match="at least one training step"):
        plot_metrics(tmp_path / "metrics.jsonl", tmp_path / "curves.png")


def test_missing_matplotlib_is_one_line_with_the_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(ImportError, match="pip install matplotlib"):
        plot_metrics(metrics_file(tmp_path), tmp_path / "curves.png")


def test_skeletons_join_what_is_visible() -> None:
    """Of three keypoints in a row the last is not visible: one limb, two white dots."""
    image = torch.zeros(3, 60, 80, dtype=torch.uint8)
    boxes, labels = torch.tensor([[5.0, 5, 75, 55]]), torch.tensor([1])
    categories = (SimpleNamespace(id=3, name="", skeleton=((1, 2), (2, 3))),)
    keypoints = torch.tensor([[[20.0, 30, 1], [40, 30, 1], [60, 30, 0]]])
    drawn = draw_instances(
        image, boxes, None, labels, None, categories, keypoints=keypoints, smallest_side=80
    )
    pixels = np.asarray(drawn)
    assert (pixels[30, 30] == instance_colours(1)[0]).all()
    assert (pixels[30, 20] == 255).all()
    assert (pixels[30, 40] == 255).all()
    assert not pixels[30, 50:70].any()
    with pytest.raises(ValueError, match="expected 1 keypoints, one for each box, got 2"):
        draw_instances(image, boxes, keypoints=keypoints.repeat(2, 1, 1))
