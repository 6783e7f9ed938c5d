"""A ResNet-18 that tells shapes apart: what short trainings of detectors start from, as the paper's from ImageNet.

It learns from crops around single objects, and so favours no neck, head or region layer. Its weights are made once and
kept beside the results, not among them.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

import maskrcnn_ops as ops

if TYPE_CHECKING:
    from maskrcnn.data import ShapesDataset

STEPS, BATCH, SEED = 600, 8, 500_000  # pictures a step; the seed of pictures that no detector sees
CROP, MARGIN = 64, 1.5  # pixels of a crop; its side over the object's


def shapes(count: int, seed: int) -> "ShapesDataset":
    """Pictures with few shapes, large enough for maps of stride 32."""
    from maskrcnn.data import ShapesDataset
    from maskrcnn.demo import SIZE

    return ShapesDataset(count, SIZE, seed=seed, max_objects=4, radii=(0.12, 0.35))


def pretrained_resnet(folder: Path, steps: int) -> dict[str, Tensor]:
    """The state dict in the folder, made now if there is none."""
    from safetensors.torch import load_file, save_file

    path = folder / f"resnet18_{steps}.safetensors"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        save_file(pretrain(steps), partial)
        partial.replace(path)  # another process sees the whole file or none
    return load_file(path)


def pretrain(steps: int) -> dict[str, Tensor]:
    """Train the ResNet to classify crops; its state dict."""
    from tqdm import tqdm

    from maskrcnn.models.norm import norm_factory
    from maskrcnn.models.resnet import ResNet

    data = shapes(steps * BATCH, SEED)
    torch.manual_seed(0)
    body = ResNet("resnet18", norm_factory("batch"))
    classifier = nn.Linear(body.out_channels[-1], data.num_classes)
    parameters = [*body.parameters(), *classifier.parameters()]
    optimizer = torch.optim.AdamW(parameters, weight_decay=0.05, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, steps, pct_start=0.15)
    with tqdm(range(0, len(data), BATCH), desc="classify crops") as bar:
        for first in bar:
            images, labels = crops(data, range(first, first + BATCH))
            scores = classifier(body(images)["3"].mean((2, 3)))
            loss = nn.functional.cross_entropy(scores, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            bar.set_postfix(right=f"{(scores.argmax(1) == labels).float().mean().item():.2f}")
    return body.state_dict()


def crops(data: "ShapesDataset", indices: range) -> tuple[Tensor, Tensor]:
    """[R, 3, CROP, CROP] around the objects of some pictures, normalised as detectors do it, and their classes [R]."""
    from maskrcnn.models.transform import IMAGENET_MEAN, IMAGENET_STD

    mean, std = (torch.tensor(each)[:, None, None] for each in (IMAGENET_MEAN, IMAGENET_STD))
    samples = [data[index] for index in indices]
    images = torch.stack([(image / 255 - mean) / std for image, _ in samples])
    around = []
    for _, target in samples:
        centres = ops.box_convert(target["boxes"], "xyxy", "cxcywh")
        centres[:, 2:] *= MARGIN
        around.append(ops.box_convert(centres, "cxcywh", "xyxy"))
    labels = torch.cat([target["labels"] for _, target in samples])
    return ops.roi_align(images, around, CROP, aligned=True), labels
