"""detectron2's conventions beside torchvision's, each on numbers worked by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import maskrcnn
from maskrcnn.models.anchors import anchors_at
from maskrcnn.models.detections import select_detections
from maskrcnn.models.geometry import GEOMETRIES, geometry_named
from maskrcnn.models.losses import box_loss
from maskrcnn.models.masks import mask_targets
from maskrcnn.models.resnet import Bottleneck
from maskrcnn.models.transform import map_back

TORCHVISION, DETECTRON2 = GEOMETRIES["torchvision"], GEOMETRIES["detectron2"]


def pooled(name: str, row: list[float], box: list[float], side: int) -> list[float]:
    """The first row of the cells pooled from one map at scale 1, whose rows are all alike."""
    features = {"0": torch.tensor(row).expand(1, 1, len(row), len(row))}
    pool = GEOMETRIES[name].roi_pool(["0"], side)
    return pool(features, [torch.tensor([box], dtype=torch.float32)], [(len(row), len(row))])[
        0, 0, 0
    ].tolist()


def test_aligned_regions() -> None:
    """On a map that holds its column: bins of [1, 5] have their centres at 2 and 4; cell centres lie at .5,
    so that aligned sampling finds 1.5 and 3.5 there."""
    columns = [0.0, 1, 2, 3, 4, 5, 6, 7]
    assert pooled("torchvision", columns, [1, 1, 5, 5], 2) == [2, 4]
    assert pooled("detectron2", columns, [1, 1, 5, 5], 2) == [1.5, 3.5]


def test_adaptive_sampling() -> None:
    """A spike in column 1, one bin over [0.5, 3.5]. Aligned it covers 0 to 3: three samples at 0.5, 1.5, 2.5
    find 1/2, 1/2, 0. Otherwise 0.5 to 3.5: two samples at 1.25 and 2.75 find 3/4 and 0."""
    spike = [0.0, 1, 0, 0, 0, 0, 0, 0]
    assert pooled("detectron2", spike, [0.5, 0.5, 3.5, 3.5], 1) == pytest.approx([1 / 3])
    assert pooled("torchvision", spike, [0.5, 0.5, 3.5, 3.5], 1) == pytest.approx([3 / 8])


@pytest.mark.parametrize(("side", "levels"), [(112.0, (1, 1)), (112 - 2**-15, (1, 0)), (111.0, (0, 0))])
def test_level_epsilon(side: float, levels: tuple[int, int]) -> None:
    """Level 3 begins at 112 = 224 / 2. 2^-15 below, the logarithm lacks 3.9e-7: torchvision's 1e-6 beside it
    makes up for that, detectron2's 1e-8 inside it, 2.9e-8 of the logarithm, does not."""
    assert 4 + math.log2((112 - 2**-15) / 224) == pytest.approx(3 - 3.9e-7, abs=1e-8)
    features = {
        name: torch.full((1, 1, 256 >> level, 256 >> level), float(level))
        for level, name in enumerate(("0", "1"))
    }
    boxes = [torch.tensor([[0.0, 0, side, side]])]
    for geometry, level in zip((TORCHVISION, DETECTRON2), levels, strict=True):
        pool = geometry.roi_pool(["0", "1"], 1)
        assert pool(features, boxes, [(1024, 1024)]).item() == pytest.approx(level)


def test_exact_anchors() -> None:
    """Side 32 and ratio 1/2: 32 sqrt(2) wide, 32 / sqrt(2) high, around the image's corner (offset 0)."""
    wide, high = 16 * math.sqrt(2), 8 * math.sqrt(2)
    exact = DETECTRON2.anchors().cell_anchors[0]
    torch.testing.assert_close(exact[0], torch.tensor([-wide, -high, wide, high]))
    assert exact[1].tolist() == [-16, -16, 16, 16]
    assert TORCHVISION.anchors().cell_anchors[0][0].tolist() == [-23, -11, 23, 11]


@pytest.mark.parametrize(("name", "stride"), [("torchvision", 61), ("detectron2", 64)])
def test_anchor_strides(name: str, stride: int) -> None:
    """800 pixels leave 25 rows at stride 32 and 13 at 64; 800 / 13 is 61."""
    generator = GEOMETRIES[name].anchors()
    grids = [(200, 200), (100, 100), (50, 50), (25, 25), (13, 13)]
    strides = generator.grid_strides((800, 800), grids)
    assert strides == [(4, 4), (8, 8), (16, 16), (32, 32), (stride, stride)]
    before = 3 * (200**2 + 100**2 + 50**2 + 25**2)
    anchor = anchors_at(torch.tensor([before + 3 * 14 + 1]), generator.cell_anchors, grids, strides)
    assert anchor.tolist() == [[stride - 256, stride - 256, stride + 256, stride + 256]]  # row 1, column 1


@pytest.mark.parametrize("strides", [(4,), (4, 8, 16)])
def test_a_stride_for_each_level(strides: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"strides: expected one for each of the 2 levels of sizes, got"):
        maskrcnn.models.AnchorGenerator((32, 64), strides=strides)


def pasted(convention: str, box: list[float], mask: list[list[float]]) -> Tensor:
    """The first row of the pasted probabilities, of an image 2 high and 4 wide."""
    detection = {"boxes": torch.tensor([box], dtype=torch.float32), "masks": torch.tensor(mask)[None, None]}
    return map_back([detection], [(2, 4)], [(2, 4)], "full", convention)[0]["masks"][0, 0, 0]


def test_continuous_paste() -> None:
    """A mask of columns 0 and 1 in the box [1, 3]: its columns are as wide as pixels and stand on pixels 1 and
    2. In [0.5, 2.5] the centre of pixel 0 is at the box's border, halfway out of column 0, and pixel 1 lies
    halfway between the columns, pixel 2 halfway out of column 1."""
    columns = [[0.0, 1], [0, 1]]
    assert pasted("continuous", [1, 0, 3, 2], columns).tolist() == [0, 0, 1, 0]
    assert pasted("continuous", [0.5, 0, 2.5, 2], columns).tolist() == [0, 0.5, 0.5, 0]
    ones = [[1.0, 1], [1, 1]]
    assert pasted("continuous", [0.5, 0, 2.5, 2], ones).tolist() == [0.5, 1, 0.5, 0]


def test_continuous_mask_targets() -> None:
    """Pixels 1 and 2 set, box [0, 4], two columns: each is 2 pixels wide, its centre between a set and an unset
    one. In the box [1, 3] they are the set pixels."""
    mask = torch.tensor([0, 1, 1, 0], dtype=torch.uint8).expand(1, 4, 4).contiguous()
    boxes = torch.tensor([[0.0, 0, 4, 4], [1, 1, 3, 3]])
    crops = mask_targets(mask, boxes, torch.zeros(2, dtype=torch.int64), 2, "continuous")
    assert crops[:, 0].tolist() == [[0.5, 0.5], [1, 1]]


@pytest.mark.parametrize(("stride_in_1x1", "expected"), [(False, [1, 3, 5, 7]), (True, [2, 4, 6, 0])])
def test_stride_in_the_first_convolution(stride_in_1x1: bool, expected: list[float]) -> None:
    """The 3x3 convolution looks one to the right. Taking every second of 0...7 first leaves 0, 2, 4, 6, whose
    right neighbours are 2, 4, 6 and the padding; taking it last finds 1, 3, 5, 7."""
    block = Bottleneck(4, 1, 2, norm=lambda _: nn.Identity(), stride_in_1x1=stride_in_1x1)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.zero_()
        block.conv1.weight[0, 0] = 1
        block.conv2.weight[0, 0, 1, 2] = 1
        block.conv3.weight[0] = 1
        out = block(torch.arange(8.0).expand(1, 4, 8, 8))
    assert out[0, 0, 0].tolist() == expected


def test_l1_box_loss() -> None:
    """Differences 0.05 and 2 over a count of 4: 2.05 / 4; smooth below 1/9: (0.05² · 9 / 2 + 2 - 1/18) / 4."""
    deltas, targets = torch.tensor([[0.05, 0, 2, 0]]), torch.zeros(1, 4)
    assert box_loss(deltas, targets, 4.0, DETECTRON2.smooth_l1_beta).item() == pytest.approx(2.05 / 4)
    smooth = (0.05**2 * 9 / 2 + 2 - 1 / 18) / 4
    assert box_loss(deltas, targets, 4.0, TORCHVISION.smooth_l1_beta).item() == pytest.approx(smooth)


def test_boxes_are_clipped_to_the_image() -> None:
    """A box of 10 x 10 around (5, 5), weights 10 and 5: dx = 20 moves its centre by 2 widths to 25, and a huge
    dw counts as log(1000 / 16), a width of 625; the image is 30 wide. dy and dh of 0 keep its height."""
    deltas = torch.tensor([[0.0, 0, 0, 0, 20, 0, 1e4, 0]])
    (found,) = select_detections(
        torch.tensor([[[0.1, 0.9]]]),
        deltas[None],
        torch.tensor([[[0.0, 0, 10, 10]]]),
        [(20, 30)],
        weights=(10.0, 10.0, 5.0, 5.0),
        score_threshold=0.05,
        nms_threshold=0.5,
        count=1,
    )
    assert found["boxes"].tolist() == [[0, 0, 30, 10]]  # 25 - 312.5 and 25 + 312.5, clipped


@pytest.mark.parametrize(("threshold", "found"), [(0.0, 3), (0.3, 2), (0.5, 1), (1.0, 0), (2.0, 0)])
def test_classes_above_the_threshold_are_found(threshold: float, found: int) -> None:
    """Of a box's three classes, 0.51, 0.31 and 0.12, and of a box without area none."""
    (detection,) = select_detections(
        torch.tensor([[[0.06, 0.12, 0.51, 0.31]] * 2]),
        torch.zeros(1, 2, 16),
        torch.tensor([[[0.0, 0, 10, 10], [0, 0, 0, 0]]]),
        [(20, 30)],
        weights=(10.0, 10.0, 5.0, 5.0),
        score_threshold=threshold,
        nms_threshold=0.5,
        count=5,
    )
    assert detection["labels"].tolist() == [2, 3, 1][:found]
    assert detection["boxes"].tolist() == [[0, 0, 10, 10]] * found


def test_a_preset_takes_the_geometry() -> None:
    with torch.device("meta"):
        model = maskrcnn.build_model(
            "keypointmaskrcnn_resnet50_fpn", geometry="detectron2", stride_in_1x1=True
        )
        changed = maskrcnn.maskrcnn_resnet18_fpn(geometry="detectron2", mask_convention="integer")
        plain = maskrcnn.maskrcnn_resnet18_fpn()
    heads = model.roi_heads
    pools = [heads.box_roi_pool, heads.mask_roi_pool, heads.keypoint_roi_pool]
    for pool, side in zip(pools, (7, 14, 14), strict=True):
        assert (pool.aligned, pool.sampling_ratio, pool.output_size) == (True, 0, (side, side))
        assert (pool.epsilon, pool.epsilon_inside) == (0.0, 1e-8)
    assert model.rpn.anchor_generator.strides == (4, 8, 16, 32, 64)
    assert model.mask_convention == "continuous"
    assert heads.smooth_l1_beta == model.rpn.smooth_l1_beta == 0
    assert model.backbone.body.layer2[0].conv1.stride == (2, 2)
    assert changed.mask_convention == "integer"
    assert (plain.roi_heads.box_roi_pool.aligned, plain.roi_heads.box_roi_pool.sampling_ratio) == (False, 2)
    assert plain.rpn.anchor_generator.strides is None
    with torch.device("meta"):
        sized = maskrcnn.maskrcnn_resnet18_fpn(geometry="detectron2", anchor_sizes=[8, 16, 32, 64, 128])
    assert sized.rpn.anchor_generator.sizes[0] == (8,)
    assert sized.rpn.anchor_generator.strides == (4, 8, 16, 32, 64)
    with pytest.raises(ValueError, match=r"geometry: expected one of torchvision, detectron2, got 'caffe'"):
        geometry_named("caffe")
