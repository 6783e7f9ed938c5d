"""A detector and a data set small enough to train in milliseconds, for the tests of the training loop."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from maskrcnn.checkpoint import ModelDescription
from maskrcnn.data import Category

DESCRIPTION = ModelDescription("maskrcnn_tiny", {"num_classes": 3})


class ToyDataset:
    """Random images with one box each; what an image shows is a function of its index."""

    def __init__(self, length: int = 12, size: int = 8) -> None:
        self.categories = [Category(1, "one"), Category(5, "two")]
        self.num_classes = 3
        self.image_ids = [100 + i for i in range(length)]
        self.image_sizes = [(size, size)] * length
        self.has_objects = [True] * length

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, object]]:
        generator = torch.Generator().manual_seed(index)
        size = self.image_sizes[index]
        image = torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8)
        target = {
            "boxes": torch.tensor([[0.0, 1.0, 2.0 + index % 5, 4.0]]),
            "labels": torch.tensor([1 + index % 2]),
            "masks": torch.zeros(1, *size, dtype=torch.uint8),
            "image_id": self.image_ids[index],
        }
        return image, target


class ToyDetector(nn.Module):
    """Two losses of a small convolutional network; ``dropout`` makes them depend on torch's generator."""

    def __init__(self, norm: str = "group", dropout: float = 0.0) -> None:
        super().__init__()
        layer = nn.GroupNorm(2, 8) if norm == "group" else nn.BatchNorm2d(8)
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), layer, nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU())
        self.dropout = nn.Dropout(dropout)
        self.classify = nn.Linear(8, 3)
        self.regress = nn.Linear(8, 4)

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        batch = torch.stack(images).float() / 255
        features = self.dropout(self.body(batch).mean(dim=(2, 3)))
        labels = torch.stack([target["labels"][0] for target in targets])
        boxes = torch.stack([target["boxes"][0] for target in targets])
        return {
            "loss_classifier": nn.functional.cross_entropy(self.classify(features).float(), labels),
            "loss_box_reg": nn.functional.smooth_l1_loss(self.regress(features).float(), boxes),
        }


def toy_detector(norm: str = "group", dropout: float = 0.0) -> ToyDetector:
    """Always the same random start."""
    torch.manual_seed(3)
    return ToyDetector(norm, dropout)
