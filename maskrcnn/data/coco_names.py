"""COCO's categories and keypoints by name, for weights that say nothing about their labels."""

from __future__ import annotations

from .dataset import Category

_NAMES = (
    "person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, , "
    "stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, "
    ", backpack, umbrella, , , handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, "
    "baseball bat, baseball glove, skateboard, surfboard, tennis racket, bottle, , wine glass, cup, "
    "fork, knife, spoon, bowl, banana, apple, sandwich, orange, broccoli, carrot, hot dog, pizza, donut, "
    "cake, chair, couch, potted plant, bed, , dining table, , , toilet, , tv, laptop, mouse, remote, "
    "keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, , book, clock, vase, scissors, "
    "teddy bear, hair drier, toothbrush"
)
# The keypoints of COCO's persons, and the limbs between them, counted from 1.
_PARTS = ("eye", "ear", "shoulder", "elbow", "wrist", "hip", "knee", "ankle")
COCO_KEYPOINTS = ("nose", *(f"{side}_{part}" for part in _PARTS for side in ("left", "right")))
_LEGS = ((16, 14), (14, 12), (17, 15), (15, 13), (12, 13), (6, 12), (7, 13))
_ARMS = ((6, 7), (6, 8), (7, 9), (8, 10), (9, 11))
_HEAD = ((2, 3), (1, 2), (1, 3), (2, 4), (3, 5), (4, 6), (5, 7))
COCO_NAMES = [name.strip() for name in _NAMES.split(",")]  # "": no category has this id


def coco_labels(num_classes: int, num_keypoints: int | None = None) -> list[Category]:
    """The categories of labels 1 to ``num_classes`` - 1 of a bare model.

    81 classes are COCO's 80 in the order of their ids, as detectron2 numbers them; 91 are its ids themselves,
    as torchvision does, where an id without a category is "unused". 2 with COCO's 17 keypoints are its person.
    Any others are "class 1", "class 2" ...

    Args:
        num_classes: the background included.
        num_keypoints: of each object, if there are any.
    """
    if num_classes == 2 and num_keypoints == len(COCO_KEYPOINTS):
        return [Category(1, COCO_NAMES[0], COCO_KEYPOINTS, _LEGS + _ARMS + _HEAD)]
    ids = range(1, len(COCO_NAMES) + 1)
    if num_classes == sum(map(bool, COCO_NAMES)) + 1:
        return [Category(id, COCO_NAMES[id - 1]) for id in ids if COCO_NAMES[id - 1]]
    if num_classes == len(COCO_NAMES) + 1:
        return [Category(id, COCO_NAMES[id - 1] or f"unused {id}") for id in ids]
    return [Category(label, f"class {label}") for label in range(1, num_classes)]
