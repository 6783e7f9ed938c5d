"""Fixtures shared by all tests.

MASKRCNN_TESTS_REQUIRE="cuda,peer,data" turns a skip for want of that thing into a failure: a GPU run in which
the GPU tests were skipped must not look green.
"""

import os
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

# The benchmarks, for a pytest that was not started in the repository's root; last, so that it hides nothing installed.
sys.path.append(str(Path(__file__).resolve().parents[1]))

REQUIRED = set(filter(None, os.environ.get("MASKRCNN_TESTS_REQUIRE", "").split(",")))

# The device fixture is a constant; hypothesis need not worry that it is not reset between examples.
COMMON = {
    "deadline": None,
    "print_blob": True,
    "suppress_health_check": [HealthCheck.function_scoped_fixture],
}
settings.register_profile("ci", max_examples=30, derandomize=True, **COMMON)
settings.register_profile("few", max_examples=8, derandomize=True, **COMMON)
settings.register_profile("nightly", max_examples=2000, **COMMON)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


def skip(need: str, reason: str) -> None:
    """Skip the running test for want of `need`, or fail it where `need` is required."""
    if need in REQUIRED:
        pytest.fail(f"required by MASKRCNN_TESTS_REQUIRE: {need}: {reason}")
    pytest.skip(reason)


@pytest.fixture(params=["cpu", "cuda"])
def device(request: pytest.FixtureRequest) -> str:
    """Each test of an operator runs on both devices; the collected counts are equal."""
    if request.param == "cuda" and not torch.cuda.is_available():
        skip("cuda", "no GPU")
    return request.param


@pytest.fixture
def gpu() -> str:
    """For tests of what only a GPU has: streams, graphs, its memory."""
    if not torch.cuda.is_available():
        skip("cuda", "no GPU")
    return "cuda"


@pytest.fixture
def real_data() -> Path:
    """The folder of real data sets: $MASKRCNN_DATA, else ../shared/data beside the repository."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("MASKRCNN_DATA", default))
    if not folder.is_dir():
        skip("data", f"no real data in {folder}; set MASKRCNN_DATA")
    return folder


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("peer") is not None:
        try:
            import torchvision  # noqa: F401
        except ImportError:
            skip("peer", "torchvision is not installed")
