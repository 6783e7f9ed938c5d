"""The benchmarks' machinery: gate, order of calls, figures, report. No test looks at speed."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("benchmarks", reason="the benchmarks stand beside the sources and are not installed")

from benchmarks import limits, operations, plots, report
from benchmarks.__main__ import all_rows, choose, main
from benchmarks.harness import Case, Clock, Row, Setting, difference, measure, quartiles
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
        "end_to_end/training/bfloat16",
    ]
    # What is left to compare with is ours: RoIPool, and RoIAlign in float32.
    assert {row["against"] for row in rows if "peer" in row} == {"our roi_pool", "our float32"}


@pytest.mark.peer
def test_every_row_passes_beside_torchvision(tmp_path: Path, device: str) -> None:
    rows = run(tmp_path, "--peer=torchvision", f"--device={device}")
    assert [row["name"] for row in rows if "ratio" not in row] == []


def test_names_are_unique_and_targets_are_those_set() -> None:
    rows = all_rows()
    assert len({row.name for row in rows}) == len(rows)
    assert {row.name: row.at_least for row in rows if row.at_least is not None} == TARGETS


def test_rows_are_chosen_by_part_or_glob() -> None:
    rows = all_rows()
    assert [row.name for row in choose(rows, "/20000/c")] == ["nms/20000/clustered"]
    assert len(choose(rows, "roi_align/*")) == 12
    assert choose(rows, "nothing") == []


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
    row = row_of(torch.ones(2), torch.ones(2), at_least=2.0)
    entry = measure(row, Setting(), FixedClock([1.0, 2.0, 3.0], [8.0, 4.0, 6.0]), 3)
    assert entry["ours"]["median"] == 2.0
    assert entry["ours"]["quartiles"] == [1.5, 2.5]
    assert entry["ratio"] == 3.0  # 6 over 2
    assert entry["ratio_quartiles"] == [2.0, 5.0]  # of 8, 2 and 2
    assert entry["bytes"] == 16
    assert (entry["written_bytes"], entry["fresh_bytes"], entry["operations"]) == (8, 0, None)
    assert measure(row, Setting("cuda"), FixedClock([1.0], [1.0]), 1)["at_least"] is None


def test_peak_memory(device: str) -> None:
    def call() -> torch.Tensor:
        torch.zeros(2**25, dtype=torch.uint8, device=device).add_(1)  # freed before the end
        return torch.ones(2**20, dtype=torch.uint8, device=device)

    call()
    found = peak_bytes(call, device == "cuda")
    assert found is None or 2**25 - 2**20 < found < 2**26  # the resident set is counted in batches of pages
    assert report.peak({"peak_bytes": {"ours": 2e6, "peer": 12345}}) == "2.00 / < 1"
    assert report.peak({"peak_bytes": {"ours": 2e6, "peer": None}}) == "2.00"


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
        (["report", "--check", "absent.json"], "--check: needs --readme"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 2
        assert message in capsys.readouterr().err


def measured(name: str, ours: float, peer: float | None, **more: Any) -> dict[str, Any]:
    """An entry with times in seconds, as `measure` makes it."""

    def side(median: float) -> dict[str, Any]:
        return {"median": median, "quartiles": [median, median], "samples": [median]}

    entry = {"name": name, "against": "torchvision", "at_least": None, "note": "", "bytes": 10**9}
    entry |= {"ours": side(ours), **more}
    if peer is not None:
        entry |= {"peer": side(peer), "ratio": peer / ours, "ratio_quartiles": [peer / ours] * 2}
    return entry


@pytest.fixture
def results() -> dict[str, Any]:
    facts = {
        "date": "2026-01-02T03:04:05+00:00",
        "device": "cpu",
        "cpu": "Some CPU",
        "threads": 2,
        "simd_level": "avx2",
        "torch": "2.13.0",
        "torchvision": "0.27.1",
        "maskrcnn_ops": "0.1.0",
        "commit": "0123",
        "load_average": 0.1,
        "load_average_after": 0.2,
        "gpu": "Some GPU",
        "cuda": "13.0",
        "copy_bytes_per_second": 4e12,
    }
    rows = [
        measured("fast", 0.001, 0.02, at_least=8.0),
        measured("not fast enough", 0.001, 0.004, at_least=8.0, note="a remark"),
        measured("loss", 0.002, 0.001, against="our roi_pool"),
        measured("alone", 0.001, None),
        {"name": "broken", "against": "torchvision", "at_least": None, "failed": "differs by 1"},
    ]
    return {"environment": facts, "quick": False, "repeats": 15, "rows": rows}


def test_table_shows_wins_losses_targets_and_failures(results: dict[str, Any]) -> None:
    assert report.table(results)[2:] == [
        "| `fast` | 1.00 (1.00–1.00) | 20.0 (20.0–20.0) | 20.0× (20.0–20.0) | ≥ 8× reached |  |",
        "| `not fast enough` [1] | 1.00 (1.00–1.00) | 4.00 (4.00–4.00) | 4.00× (4.00–4.00) | ≥ 8× missed |  |",
        "| `loss` | 2.00 (2.00–2.00) | 1.00 (1.00–1.00) our roi_pool | 0.500× (0.500–0.500) slower |  |  |",
        "| `alone` | 1.00 (1.00–1.00) |  |  |  |  |",
        "| `broken` | failed: differs by 1 |  |  |  |  |",
    ]
    assert "[1] a remark." in report.markdown(results, "plot.png")
    results["environment"]["device"] = "cuda"
    assert report.table(results)[2].endswith("| 1000 (25%) |  |")  # 1 GB in 1 ms, of 4 TB/s


def test_limit_is_the_larger_of_bytes_and_operations(results: dict[str, Any]) -> None:
    old = report.table(results)
    results["environment"] |= {
        "copy_bytes_per_second": 4e9,
        "read_bytes_per_second": 10e9,
        "first_touch_bytes_per_second": 5e9,
        "operations_per_second": 1e11,
    }
    entry = results["rows"][0]
    assert report.table(results)[2] == f"{old[2]}  |"  # a row without counts
    assert report.table(results)[-1] == f"{old[-1]}  |"  # a failed one
    # 2 MB read, 2 MB rewritten, 1 MB fresh: 0.2 + 0.5 + 0.2 ms; 50 M operations take 0.5 ms, 500 M take 5.
    entry |= {"bytes": 5 * 10**6, "written_bytes": 3 * 10**6, "fresh_bytes": 10**6, "operations": 5e7}
    entry["ours"]["median"] = 0.010
    assert report.table(results)[2].endswith("| 0.900: 2.00 MB read, 1.00 MB fresh, 2.00 MB written (9%) |")
    entry["operations"] = 5e8
    assert report.table(results)[2].endswith("| 5.00: 500 M operations (50%) |")
    assert "read once, at 10.0 GB/s; each result" in report.caption(results)
    assert "run at the 100 G/s of a float32 matrix product or convolution." in report.caption(results)


def test_rates_are_measured_and_large_results_are_fresh() -> None:
    rates = limits.rates(Clock("cpu", 16), 2**20, 16, 3)
    assert set(rates) == {
        "read_bytes_per_second",
        "first_touch_bytes_per_second",
        "operations_per_second",
    }
    assert all(rate > 0 for rate in rates.values())
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


def test_readme_is_written_and_checked(tmp_path: Path, results: dict[str, Any]) -> None:
    readme, file = tmp_path / "README.md", tmp_path / "results" / "cpu.json"
    file.parent.mkdir()
    file.write_text(json.dumps(results))
    readme.write_text(f"before\n{report.BEGIN}\nstale\n{report.END}\nafter\n")
    arguments = ["report", str(file), f"--readme={readme}", "--no-plot"]
    assert main([*arguments, "--check"]) == 1
    assert "stale" in readme.read_text()
    assert main(arguments) == 0
    text = readme.read_text()
    assert text.startswith(f"before\n{report.BEGIN}\n**CPU.** Some CPU, 2 threads")
    assert text.endswith(f"(results/cpu.png)\n{report.END}\nafter\n")
    assert "stale" not in text
    assert main([*arguments, "--check"]) == 0
    results["rows"][0]["ratio"] = 21.0
    file.write_text(json.dumps(results))
    assert main([*arguments, "--check"]) == 1


def test_readme_refuses_toy_sizes_and_missing_markers(
    tmp_path: Path, results: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    readme, file = tmp_path / "README.md", tmp_path / "cpu.json"
    readme.write_text("no markers\n")
    for quick, message in ((False, report.BEGIN), (True, "was measured with --quick")):
        file.write_text(json.dumps({**results, "quick": quick}))
        with pytest.raises(SystemExit) as stop:
            main(["report", str(file), f"--readme={readme}", "--no-plot"])
        assert stop.value.code == 2
        assert message in capsys.readouterr().err
    assert readme.read_text() == "no markers\n"


def test_plot_is_drawn(tmp_path: Path, results: dict[str, Any]) -> None:
    pytest.importorskip("matplotlib")
    file = tmp_path / "cpu.json"
    file.write_text(json.dumps(results))
    assert main(["report", str(file)]) == 0
    assert file.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_cost_is_drawn_as_lines_and_not_listed(tmp_path: Path, results: dict[str, Any]) -> None:
    points = [
        {**measured(f"cost/{size}", size * 1e-6, size * 1e-5), "series": ["nms, scattered boxes", size]}
        for size in (300, 100)
    ]
    both = {**results, "rows": [*results["rows"], *points]}
    assert report.table(both) == report.table(results)
    assert report.cost_lines(both)["nms, scattered boxes"] == [
        (100, pytest.approx(0.1), pytest.approx(1.0)),
        (300, pytest.approx(0.3), pytest.approx(3.0)),
    ]
    text = report.markdown({**results, "rows": points}, "folder/size.png")
    assert text.endswith("![CPU: time against size, beside torchvision](folder/size-cost.png)")
    assert "| Row |" not in text
    pytest.importorskip("matplotlib")
    plots.cost(both, tmp_path / "cost.png")
    assert (tmp_path / "cost.png").read_bytes().startswith(b"\x89PNG")
