"""The benchmarks' machinery: rows, gate, order of calls, figures, limits. No test looks at speed."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("benchmarks", reason="the benchmarks stand beside the sources and are not installed")

from benchmarks import inputs, limits, operations, roi_align, sectors, tables, terms
from benchmarks.__main__ import all_rows, choose, main
from benchmarks.clock import Clock
from benchmarks.harness import Case, Row, Setting, Target, difference, measure, quartiles
from benchmarks.memory import peak_bytes

INF, NAN = float("inf"), float("nan")
# What this project set itself on the CPU beside torchvision; every other row is shown without a target.
TARGETS = {
    "roi_align/forward/float32/contiguous": 12.0,
    "roi_align/forward/float32/channels_last": 25.0,
    "roi_align/forward/bfloat16_against_float32/channels_last": 1.3,
    "roi_align/backward/float32/contiguous": 10.0,
    "roi_align/backward/float32/channels_last": 15.0,
    "roi_align_adaptive/forward/float32/contiguous": 12.0,
    "roi_align_adaptive/forward/float32/channels_last": 30.0,
    "multiscale_roi_align/forward/float32/contiguous": 12.0,
    "roi_pool/forward/float32/contiguous": 12.0,
    "roi_pool/forward/float32/channels_last": 12.0,
    "roi_pool/backward/float32/contiguous": 5.0,
    "roi_pool/backward/float32/channels_last": 5.0,
    "ps_roi_align/forward/float32/contiguous": 5.0,
    "ps_roi_align/forward/float32/channels_last": 5.0,
    "ps_roi_align/backward/float32/contiguous": 5.0,
    "ps_roi_align/backward/float32/channels_last": 5.0,
    "ps_roi_pool/forward/float32/contiguous": 5.0,
    "ps_roi_pool/forward/float32/channels_last": 5.0,
    "ps_roi_pool/backward/float32/contiguous": 5.0,
    "ps_roi_pool/backward/float32/channels_last": 5.0,
    "nms/1000/scattered": 5.0,
    "nms/4000/scattered": 8.0,
    "nms/20000/scattered": 12.0,
    "nms/1000/clustered": 5.0,
    "nms/4000/clustered": 8.0,
    "nms/20000/clustered": 12.0,
    "batched_nms/20000/80 classes": 10.0,
    "decode_anchors/proposals of 800 x 1216/contiguous": 4.0,
    "decode_anchors/proposals of 800 x 1216/channels_last": 4.0,
    "match_boxes/240,000 anchors to 100/grid": 10.0,
    "match_boxes/240,000 anchors to 100/stored": 10.0,
    "match_boxes/240,000 anchors to 100/shuffled": 10.0,
    "nms/200000/spread": 10 / 15,
    "paste_masks/integer": 8.0,
    "masks_to_rle": 40.0,
    "crop_masks/polygons": 15.0,
    "end_to_end/inference/float32": 1.25,
    "end_to_end/inference/bfloat16": 1.5,
    "end_to_end/inference/bfloat16_against_float32": 2.0,
    "end_to_end/training/float32": 1.3,
    "end_to_end/training/bfloat16": 2.0,
}
USUAL = ("float32/contiguous", "float16/channels_last", "bfloat16/channels_last")
# On CUDA, by part of the name; a row has what the first that fits says.
CUDA_TARGETS: dict[str, Target | None] = {
    "against_float32": None,
    "roi_align_against_roi_pool": None,
    **{f"multiscale_roi_align/forward/{usual}": Target(4.0) for usual in USUAL},
    "multiscale_roi_align": None,
    "ps_roi_align": None,
    "roi_align/forward/float32/contiguous": Target(2.5, limit_at_least=0.6),
    "roi_align/forward/float16/channels_last": Target(5.0, limit_at_least=0.6),
    "roi_align/forward/bfloat16/channels_last": Target(5.0, limit_at_least=0.6),
    **{f"roi_align/backward/{usual}": Target(1.0) for usual in USUAL},
    "roi_align_deterministic/backward/float32/contiguous": Target(20.0),
    "ps_roi_pool": None,
    **{f"roi_pool/{way}/{usual}": Target(2.0) for way in ("forward", "backward") for usual in USUAL},
    "nms/50000": Target(5.0),
    "nms/8 x 4000/80 classes": Target(10.0),
    "decode_anchors/proposals of 800 x 1216/contiguous/8 images": Target(5.0),
    "decode_anchors/proposals of 800 x 1216/channels_last/8 images": Target(5.0),
    "paste_masks/integer": Target(10.0),
    "masks_to_rle/3000 x 4000": None,
    "masks_to_rle": Target(10.0),
    "crop_masks/polygons/8 images": Target(10.0, memory_at_most=0.05),
    "crop_masks/runs/8 images": Target(10.0, memory_at_most=0.05),
    "crop_masks/bitmaps/8 images": Target(10.0, memory_at_most=0.05),
    "end_to_end/detection/float32": Target(1.5),
    "end_to_end/detection/bfloat16": Target(2.0),
    "end_to_end/training_resnet50/bfloat16/8 images": Target(1.5, memory_at_most=0.7),
}


def run(tmp_path: Path, *options: str) -> list[dict[str, Any]]:
    """The rows of a quick run; the process keeps its number of threads."""
    output = tmp_path / "results.json"
    threads = str(torch.get_num_threads())
    assert main(["--quick", "--repeats=1", f"--threads={threads}", f"--output={output}", *options]) == 0
    return json.loads(output.read_text())["rows"]


def test_every_row_passes_against_the_reference(tmp_path: Path, device: str) -> None:
    rows = run(tmp_path, "--peer=none", f"--device={device}")
    assert [row["name"] for row in rows] == [row.name for row in all_rows()]
    assert all(row["ours"]["median"] > 0 for row in rows)
    uncounted = [row["name"] for row in rows if row["operations"] is None]
    assert uncounted == [
        "end_to_end/inference/bfloat16",
        "end_to_end/inference/bfloat16_against_float32",
        "end_to_end/detection/bfloat16/1 image",
        "end_to_end/detection/bfloat16/8 images",
        "end_to_end/training/bfloat16",
        "end_to_end/training_resnet50/bfloat16/8 images",
    ]
    gathered = {row["name"].split("/")[0] for row in rows if "gathered_bytes" in row}
    assert gathered == {
        "roi_align",
        "roi_align_against_roi_pool",
        "multiscale_roi_align",
        "roi_pool",
        "cost",
    }
    # What is left to compare with is ours: RoIPool, and RoIAlign in float32.
    assert {row["against"] for row in rows if "peer" in row} == {"our roi_pool", "our float32"}


@pytest.mark.peer
def test_every_row_passes_beside_torchvision(tmp_path: Path, device: str) -> None:
    rows = run(tmp_path, "--peer=torchvision", f"--device={device}")
    assert [row["name"] for row in rows if "ratio" not in row] == []


def test_names_are_unique_and_targets_are_those_set() -> None:
    rows = all_rows()
    assert len({row.name for row in rows}) == len(rows)
    assert {row.name: row.targets["cpu"] for row in rows if "cpu" in row.targets} == {
        name: Target(at_least) for name, at_least in TARGETS.items()
    }
    for row in rows:
        wanted = next((target for part, target in CUDA_TARGETS.items() if part in row.name), None)
        assert row.targets.get("cuda") == wanted, row.name
    assert not [part for part in CUDA_TARGETS if not any(part in row.name for row in rows)]


def test_rows_in_half_precision_and_of_batches_are_for_cuda() -> None:
    names = [row.name for row in all_rows() if row.devices == ("cuda",)]
    for operator in ("roi_align", "multiscale_roi_align", "roi_pool"):
        for direction in ("forward", "backward"):
            stem = f"{operator}/{direction}"
            assert f"{stem}/float16/contiguous" in names
            for usual in USUAL:
                assert {f"{stem}/{usual}/{images} images" for images in (2, 8)} <= set(names)
    assert not set(names) & TARGETS.keys()


def test_rows_are_chosen_by_part_or_glob() -> None:
    rows = all_rows()
    assert [row.name for row in choose(rows, "/20000/c")] == ["nms/20000/clustered"]
    assert len(choose(rows, "roi_align/*", "cpu")) == 12
    assert len(choose(rows, "roi_align/*", "cuda")) == 12 + 4 + 12  # float16; two batches in three dtypes
    assert choose(rows, "nothing") == []


def test_a_row_for_another_device_is_chosen_by_its_whole_name() -> None:
    rows = all_rows()
    assert choose(rows, "nms/50000", "cpu") == []
    assert [row.name for row in choose(rows, "nms/50000/scattered", "cpu")] == ["nms/50000/scattered"]
    assert len(choose(rows, "nms/50000", "cuda")) == 2


@pytest.mark.parametrize(
    ("ours", "expected", "wanted"),
    [
        (torch.tensor([1.0, -2.0]), torch.tensor([1.0, -2.5]), 0.2),  # 0.5 of 2.5
        (torch.tensor([0.5]), torch.tensor([0.0]), 0.5),
        ([torch.ones(2), torch.zeros(1)], torch.tensor([1.0, 1.0, 0.0]), 0.0),
        (torch.tensor([True, True, False, False]), torch.tensor([True, False, False, False]), 0.25),
        (torch.tensor([3, 1]), torch.tensor([1, 3]), 1.0),
        (torch.tensor([3, 1]), torch.tensor([3]), INF),
        (torch.empty(0), torch.empty(0), 0.0),
    ],
)
def test_difference(ours: Any, expected: Any, wanted: float) -> None:
    assert difference(ours, expected) == pytest.approx(wanted)


class FixedClock(Clock):
    """Returns set samples instead of timing."""

    cuda = False

    def __init__(self, *samples: list[float]) -> None:
        self.samples = samples

    def interleaved(self, calls: Any, repeats: int, settle: bool = False) -> list[list[float]]:
        return list(self.samples)


def row_of(ours: torch.Tensor, expected: torch.Tensor, **options: Any) -> Row:
    case = Case(lambda: ours, lambda: expected, lambda: expected, [expected])
    return Row("row", lambda setting: case, tolerance=0.1, **options)


@pytest.mark.parametrize("value", [1.2, NAN, INF])
def test_a_wrong_row_is_not_timed(value: float) -> None:
    row = row_of(torch.tensor([value, 1.0]), torch.tensor([1.0, 1.0]))
    entry = measure(row, Setting(), FixedClock(), 1)  # the clock has no samples to give
    assert "differs by" in entry["failed"]
    assert "ours" not in entry


def test_a_row_that_raises_is_failed_with_its_message() -> None:
    def broken(setting: Setting) -> Case:
        raise RuntimeError("first line\nsecond line")

    entry = measure(Row("row", broken, tolerance=0.0), Setting(), FixedClock(), 1)
    assert entry["failed"] == "RuntimeError: first line"


def test_figures_of_a_row() -> None:
    row = row_of(torch.ones(2), torch.ones(2), targets={"cpu": Target(2.0), "cuda": Target(3.0, 0.5, 0.25)})
    entry = measure(row, Setting(), FixedClock([1.0, 2.0, 3.0], [8.0, 4.0, 6.0]), 3)
    assert entry["ours"]["median"] == 2.0
    assert entry["ours"]["quartiles"] == [1.5, 2.5]
    assert entry["ratio"] == 3.0  # 6 over 2
    assert entry["ratio_quartiles"] == [2.0, 5.0]  # of 8, 2 and 2
    assert entry["bytes"] == 16
    assert (entry["written_bytes"], entry["fresh_bytes"], entry["operations"]) == (8, 0, None)
    assert (entry["at_least"], entry["limit_at_least"], entry["memory_at_most"]) == (2.0, None, None)
    entry = measure(row, Setting("cuda"), FixedClock([1.0], [1.0]), 1)
    assert (entry["at_least"], entry["limit_at_least"], entry["memory_at_most"]) == (3.0, 0.5, 0.25)


def test_peak_memory(device: str) -> None:
    def call() -> torch.Tensor:
        torch.zeros(2**25, dtype=torch.uint8, device=device).add_(1)  # freed before the end
        return torch.ones(2**20, dtype=torch.uint8, device=device)

    call()
    found = peak_bytes(call, device == "cuda")
    assert found is None or 2**25 - 2**20 < found < 2**26  # the resident set is counted in batches of pages
    assert tables.peak({"peak_bytes": {"ours": 2e6, "peer": 12345}}) == "2.00 / < 1"
    assert tables.peak({"peak_bytes": {"ours": 2e6, "peer": None}}) == "2.00"


def test_quartiles() -> None:
    assert quartiles([7.0]) == (7.0, 7.0, 7.0)
    assert quartiles([4.0, 1.0, 3.0, 2.0, 5.0]) == (2.0, 3.0, 4.0)


def test_calls_alternate_after_warm_ups() -> None:
    order: list[str] = []
    calls = [lambda name=name: order.append(name) or torch.empty(0) for name in "ab"]
    samples = Clock("cpu", 16).interleaved(calls, 3)
    assert "".join(order) == "aabb" + "ababab"
    assert [len(each) for each in samples] == [3, 3]
    order.clear()
    assert [len(each) for each in Clock("cpu", 16).interleaved(calls, 3, settle=True)] == [3, 3]
    assert "".join(order) == "aabb" + "aabb" * 3


def test_wrong_arguments_end_with_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (
        (["--rows=nothing"], "no row matches 'nothing'"),
        (["--repeats=0"], "--repeats: expected at least 1, got 0"),
        (["report", "absent.json"], "absent.json"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 2
        assert message in capsys.readouterr().err


def test_sectors_by_hand() -> None:
    # Two bins of one sample from 2 to 6: at 3 and 5, which read 3, 4, 5 and 6. Beyond the map nothing is read, at its
    # border the last cell alone.
    low, high = torch.tensor([2.0, 40.0, 6.0]), torch.tensor([6.0, 60.0, 8.0])
    cells = sectors.sampled(low, high, 8, scale=1.0, bins=2, ratio=1)
    assert [row.nonzero()[:, 0].tolist() for row in cells] == [[3, 4, 5, 6], [], [6, 7]]
    # RoIPool rounds 1.25 and 3.5 to 1 and 4, both of which it reads.
    cells = sectors.covered(torch.tensor([2.5]), torch.tensor([7.0]), 8, scale=0.5)
    assert cells[0].nonzero()[:, 0].tolist() == [1, 2, 3, 4]

    # A map of 3 x 12 float32, 2 channels. The first RoI reads columns 6 to 9 of rows 0 and 1, the second of image 1
    # columns 8 and 9 of rows 1 and 2, twice. Eight neighbours share a sector: row 0 is its sectors 0 and the half of 1,
    # row 1 begins in the other half of it.
    features = torch.zeros(2, 2, 3, 12)
    rois = torch.tensor([[0.0, 6, 0, 9, 1], [1.0, 8, 1, 9, 2], [1.0, 8, 1, 9, 2]])

    def whole(low: torch.Tensor, high: torch.Tensor, extent: int) -> torch.Tensor:
        return sectors.covered(low, high, extent, scale=1.0)

    # Cells 6 to 9 and 18 to 21 are in sectors 0, 1 and 2; cells 20, 21, 32 and 33 in 2 and 4.
    assert sectors.fetched(features, rois, whole) == {
        "gathered_bytes": 32 * 2 * (3 + 2 + 2),
        "untouched_bytes": features.nbytes - 32 * 2 * (3 + 2),
    }
    # In channels_last a cell of 2 channels is a part of a sector, one of 9 takes two.
    for channels, per_cell in ((2, 1), (9, 2)):
        features = torch.zeros(2, channels, 3, 12).contiguous(memory_format=torch.channels_last)
        assert sectors.fetched(features, rois, whole) == {
            "gathered_bytes": 32 * per_cell * (8 + 4 + 4),
            "untouched_bytes": max(0, features.nbytes - 32 * per_cell * (8 + 4)),
        }


def test_sectors_are_those_that_roi_align_reads() -> None:
    """Where the gradient of a sum is not zero; no weight of these RoIs is."""
    sizes = inputs.QUICK
    rois = inputs.rois(sizes)
    for roi in rois:
        features = inputs.feature_map(sizes, torch.float32, "channels_last", "cpu").clone().requires_grad_()
        (gradient,) = torch.autograd.grad(roi_align.POOLING.ours(features, roi[None]).sum(), features)
        read = int((gradient[0, 0] != 0).sum())
        assert roi_align.POOLING.axis is not None
        assert sectors.fetched(features, roi[None], roi_align.POOLING.axis)["gathered_bytes"] == 32 * read


def test_batches_have_the_rois_of_each_image() -> None:
    batch = Setting(quick=True).batch(8)
    assert (batch.images, Setting().batch(8).images) == (2, 8)
    assert inputs.rois(batch)[:, 0].tolist() == [0.0] * 10 + [1.0] * 10
    assert torch.equal(inputs.rois(Setting(quick=True).batch(1))[:, 1:], inputs.boxes(10, inputs.QUICK))


def test_torchvisions_terms() -> None:
    assert terms.peer_terms("float32", True, "cuda").note == ""
    asked = terms.peer_terms("float16", True, "cuda")
    assert (asked.dtype, asked.rois) == (torch.float16, torch.float16)
    asked = terms.peer_terms("bfloat16", False, "cuda")
    assert (asked.dtype, asked.rois) == (torch.bfloat16, torch.float32)
    assert "under autocast" in asked.note
    asked = terms.peer_terms("bfloat16", False, "cpu")
    assert (asked.dtype, asked.rois) == (torch.float32, torch.float32)


def test_the_deterministic_mode_is_left_as_it_was() -> None:
    modes: list[bool] = []

    def call() -> torch.Tensor:
        modes.append(torch.are_deterministic_algorithms_enabled())
        return torch.empty(0)

    mode = roi_align.DETERMINISTIC.peer_mode
    assert mode is not None
    inside = terms.within(mode, lambda: (call(), call)[1])
    assert not torch.are_deterministic_algorithms_enabled()
    inside()
    assert not torch.are_deterministic_algorithms_enabled()
    assert modes == [True, True]  # made and called in it


def test_rates_are_measured_and_large_results_are_fresh() -> None:
    rates = limits.rates(Clock("cpu", 16), 2**20, 16, 3)
    assert set(rates) == {
        "read_bytes_per_second",
        "first_touch_bytes_per_second",
        "operations_per_second",
    }
    assert all(rate > 0 for rate in rates.values())
    assert limits.l2_rate(Clock("cpu", 16), 2**12, 3) > 0
    small, large = torch.empty(10), torch.empty(limits.FRESH, dtype=torch.uint8)
    assert limits.written([small, large]) == {"written_bytes": 40 + limits.FRESH, "fresh_bytes": limits.FRESH}


def test_operations_by_hand() -> None:
    boxes = torch.tensor([[0.0, 0, 4, 8], [1, 1, 3, 3], [8, 0, 12, 4]])
    assert operations.cells(boxes, 2.0) == 8 + 1 + 4
    assert operations.overlaps(boxes, boxes) == 3 + 2
    assert operations.overlaps(boxes, boxes, *[torch.tensor([0, 1, 0])] * 2) == 3
    # The first and the last are kept and do not meet; the second takes one test.
    assert operations.suppression(boxes, torch.tensor([0, 2])) == operations.TEST
    assert operations.suppression(boxes, torch.tensor([0, 1, 2])) == operations.TEST
    assert operations.of_layers(lambda: torch.ones(2, 3) @ torch.ones(3, 4)) == 2 * 2 * 3 * 4
