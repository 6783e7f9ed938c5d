"""A one-stage detector in a hundred lines, on `maskrcnn_ops` alone: how another detector uses the operators.

It learns to find rectangles of three colours on noise, in half a minute on a CPU:

    python examples/one_stage.py

Anchors are never stored: `decode_grid` computes them from the grid's index, in training as in detection, and
`encode_boxes` turns matched objects into targets.
"""

import argparse

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import maskrcnn_ops as ops

CLASSES, SIDE, STRIDE = 3, 128, 8
ANCHOR_SIDES = (16, 28, 44)


def make_image(generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """An image [3, SIDE, SIDE] with one to four rectangles: their boxes [L, 4] and colours [L]."""
    count = int(torch.randint(1, 5, (), generator=generator))
    sides = torch.randint(12, 48, (count, 2), generator=generator)
    corner = (torch.rand(count, 2, generator=generator) * (SIDE - sides)).long()
    boxes = torch.cat([corner, corner + sides], dim=1)
    labels = torch.randint(CLASSES, (count,), generator=generator)
    image = torch.rand(3, SIDE, SIDE, generator=generator) * 0.5
    for (x1, y1, x2, y2), label in zip(boxes.tolist(), labels.tolist(), strict=True):
        image[:, y1:y2, x1:x2] = 0.1
        image[label, y1:y2, x1:x2] = 0.9
    return image, boxes.float(), labels


class OneStage(nn.Module):
    """Class logits [N, H * W * A, K] and box deltas [N, H * W * A, 4] from one map of stride 8."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 16, 32, 64, 64)
        strides = (2, 2, 2, 1)
        layers: list[nn.Module] = []
        for i, stride in enumerate(strides):
            layers += [
                nn.Conv2d(widths[i], widths[i + 1], 3, stride, 1),
                nn.BatchNorm2d(widths[i + 1]),
                nn.ReLU(),
            ]
        self.body = nn.Sequential(*layers)
        self.classes = nn.Conv2d(widths[-1], len(ANCHOR_SIDES) * CLASSES, 3, padding=1)
        self.deltas = nn.Conv2d(widths[-1], len(ANCHOR_SIDES) * 4, 3, padding=1)
        nn.init.constant_(self.classes.bias, -4.0)  # nearly all anchors are background
        half = torch.tensor(ANCHOR_SIDES)[:, None] / 2
        self.register_buffer("cell_anchors", torch.cat([-half, -half, half, half], dim=1) + STRIDE / 2)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.body(images)
        classes = self.classes(features).permute(0, 2, 3, 1).reshape(len(images), -1, CLASSES)
        return classes, self.deltas(features).permute(0, 2, 3, 1).reshape(len(images), -1, 4)

    def decode(self, deltas: Tensor) -> Tensor:
        """Boxes [N, H * W * A, 4] of the whole grid."""
        return ops.decode_grid(deltas, self.cell_anchors, (SIDE // STRIDE, SIDE // STRIDE), (STRIDE, STRIDE))

    def loss(self, images: Tensor, boxes: list[Tensor], labels: list[Tensor]) -> Tensor:
        classes, deltas = self(images)
        anchors = self.decode(torch.zeros_like(deltas[:1]))[0]
        total = classes.new_zeros(())
        for image in range(len(images)):
            overlap, match = ops.box_iou(boxes[image], anchors).max(dim=0)
            positive = overlap >= 0.45
            target = torch.zeros_like(classes[image])
            target[positive, labels[image][match[positive]]] = 1
            counted = positive | (overlap < 0.3)
            weight = (
                target - classes[image].detach().sigmoid()
            ).abs() ** 2  # focal: easy anchors weigh little
            entropy = F.binary_cross_entropy_with_logits(classes[image], target, weight, reduction="none")
            wanted = ops.encode_boxes(boxes[image][match[positive]], anchors[positive])
            distance = F.smooth_l1_loss(deltas[image][positive], wanted, beta=0.1, reduction="sum")
            total = total + (entropy[counted].sum() + distance) / positive.sum().clamp(min=1)
        return total / len(images)

    @torch.no_grad()
    def detect(self, images: Tensor, threshold: float = 0.4) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Boxes, scores and labels of each image."""
        classes, deltas = self.eval()(images)
        boxes = ops.clip_boxes_to_image(self.decode(deltas), (SIDE, SIDE))
        results = []
        for image in range(len(images)):
            scores, labels = classes[image].sigmoid().max(dim=1)
            sure = scores > threshold
            found = boxes[image][sure], scores[sure], labels[sure]
            keep = ops.batched_nms(*found, iou_threshold=0.5)
            results.append((found[0][keep], found[1][keep], found[2][keep]))
        return results


def recall(model: OneStage, images: int, seed: int = 1) -> float:
    """Share of objects found with their colour and an IoU of at least 0.5."""
    generator = torch.Generator().manual_seed(seed)
    found = total = 0
    for _ in range(images):
        image, boxes, labels = make_image(generator)
        detected, _, colours = model.detect(image[None])[0]
        hits = (ops.box_iou(boxes, detected) >= 0.5) & (labels[:, None] == colours)
        found, total = found + int(hits.any(dim=1).sum()), total + len(boxes)
    return found / total


def main() -> None:
    """Train, then look for the objects of images that were not trained on."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=200)
    steps = parser.parse_args().steps
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    model = OneStage()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for step in range(1, steps + 1):
        images, boxes, labels = zip(*(make_image(generator) for _ in range(8)), strict=True)
        loss = model.train().loss(torch.stack(images), list(boxes), list(labels))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 50 == 0 or step == steps:
            print(f"step {step}: loss {loss.item():.3f}")
    print(f"found {recall(model, 50):.0%} of the objects")


if __name__ == "__main__":
    main()
