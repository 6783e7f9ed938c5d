"""Data sets, picture reading, augmentation and loaders."""

from .coco import CocoDataset
from .dataset import Category, DataError, DetectionDataset, Target
from .images import read_image
from .loader import evaluation_loader, training_loader
from .proposals import ProposedDataset, read_picture_proposals, read_proposals
from .shapes import ShapesDataset
from .transforms import flip_horizontal, flip_vertical

__all__ = [
    "Category",
    "CocoDataset",
    "DataError",
    "DetectionDataset",
    "ProposedDataset",
    "ShapesDataset",
    "Target",
    "evaluation_loader",
    "flip_horizontal",
    "flip_vertical",
    "read_image",
    "read_picture_proposals",
    "read_proposals",
    "training_loader",
]
