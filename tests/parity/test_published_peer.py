"""The tables of published weights beside torchvision's own."""

import pytest

from maskrcnn.models import published
from maskrcnn.models.published import BACKBONES, DETECTORS, SOURCE, TORCHVISION_WORDS

models = pytest.importorskip("torchvision").models

pytestmark = pytest.mark.peer

VERSIONS = {word: version for version, word in TORCHVISION_WORDS.items()}
FILES = [
    (word, model, name)
    for table in (DETECTORS, BACKBONES)
    for word, files in table.items()
    for model, name in files.items()
]


@pytest.mark.parametrize(("word", "model", "name"), FILES)
def test_addresses(word, model, name, monkeypatch):
    weights = models.get_model_weights(model)[VERSIONS[word]]
    assert weights.url == SOURCE + name
    monkeypatch.setattr(published, "fetch", lambda fetched: fetched)
    resolve = published.detector_weights if word in DETECTORS else published.backbone_weights
    assert resolve(weights, model) == resolve(weights.name, model) == resolve(word, model) == name
