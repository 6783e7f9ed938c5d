"""The operators under every SIMD level: the processor's best is what the other tests run; here are the rest."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from maskrcnn_ops import _host

LEVELS = ["baseline", "avx2", "avx512"]
LOWER = LEVELS[: LEVELS.index(_host.simd_level)]
TESTS = Path(__file__).parent
PACKAGE = Path(_host.__file__).parent
FILES = [
    "roi_align",
    "roi_align_maximum",
    "roi_align_boxes",
    "multiscale_roi_align",
    "roi_pool",
    "ps_roi_pool",
    "pooling_half",
    "nms",
    "padded_nms",
    "fast_nms",
    "soft_nms",
    "boxes",
    "box_coder",
    "decode_anchors",
    "match_boxes",
    "masks_to_boxes",
    "paste_masks",
    "masks_to_rle",
    "crop_masks",
    "keypoints",
]


def run_with(level):
    """A new process that prints the level it chose; an empty wish is none."""
    environment = {**os.environ, "MASKRCNN_OPS_SIMD": level}
    command = [sys.executable, "-c", "from maskrcnn_ops import _host; print(_host.simd_level)"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True)


@pytest.mark.slow
@pytest.mark.parametrize("level", LOWER)
def test_operators_match_the_reference(level):
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    command += ["-k", "(reference or half) and cpu"]
    command += [str(TESTS / f"test_{stem}.py") for stem in FILES]
    result = subprocess.run(
        command,
        env={**os.environ, "MASKRCNN_OPS_SIMD": level, "HYPOTHESIS_PROFILE": "few"},
        capture_output=True,
        text=True,
        cwd=PACKAGE.parent,  # where Python looks first: the package under test, wherever it is
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert " passed" in result.stdout


@pytest.mark.parametrize("level", LOWER)
def test_the_environment_chooses_the_level(level):
    assert run_with(level).stdout.strip() == level


def test_the_environment_cannot_raise_the_level():
    assert run_with("avx512").stdout == run_with("").stdout


def test_an_unknown_level_is_reported():
    result, best = run_with("sse9"), run_with("")
    assert "MASKRCNN_OPS_SIMD: expected baseline, avx2 or avx512, got sse9" in result.stderr
    assert result.stdout == best.stdout
    assert best.stderr == ""
