"""The examples run, and do what they say."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


@pytest.mark.slow
def test_one_stage_detector_learns():
    command = [sys.executable, str(EXAMPLES / "one_stage.py"), "--steps", "150"]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=EXAMPLES.parent)
    found = re.search(r"found (\d+)% of the objects", result.stdout)
    assert found
    assert int(found[1]) >= 60
