"""The tables of published weights beside torchvision's own."""

import pytest

from maskrcnn.models.published import BACKBONES, DETECTORS, SOURCE

models = pytest.importorskip("torchvision").models

pytestmark = pytest.mark.peer

VERSIONS = {"coco": "COCO_V1", "imagenet": "IMAGENET1K_V1", "imagenet_v2": "IMAGENET1K_V2"}
FILES = [
    (word, model, name)
    for table in (DETECTORS, BACKBONES)
    for word, files in table.items()
    for model, name in files.items()
]


@pytest.mark.parametrize(("word", "model", "name"), FILES)
def test_addresses(word, model, name):
    assert models.get_model_weights(model)[VERSIONS[word]].url == SOURCE + name
