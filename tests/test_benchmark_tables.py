"""The benchmarks' tables and plots, from made-up figures."""

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("benchmarks", reason="the benchmarks stand beside the sources and are not installed")

from benchmarks import captions, plots, report, tables
from benchmarks.__main__ import main


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


def lines(text: str) -> list[str]:
    """The rows of a table."""
    return [line for line in text.splitlines() if line.startswith("| `")]


def test_table_shows_wins_losses_targets_and_failures(results: dict[str, Any]) -> None:
    text = tables.full(results)
    assert lines(text) == [
        "| `fast` | 1.00 (1.00–1.00) | 20.0 (20.0–20.0) | 20.0× (20.0–20.0) | ≥ 8× reached |  |",
        "| `not fast enough` [1] | 1.00 (1.00–1.00) | 4.00 (4.00–4.00) | 4.00× (4.00–4.00) | ≥ 8× missed |  |",
        "| `loss` | 2.00 (2.00–2.00) | 1.00 (1.00–1.00) our roi_pool | 0.500× (0.500–0.500) slower |  |  |",
        "| `alone` | 1.00 (1.00–1.00) |  |  |  |  |",
        "| `broken` | failed: differs by 1 |  |  |  |  |",
    ]
    assert "[1] a remark." in text
    assert "load average 0.1 before and 0.2 after" in text


def test_short_table_has_the_rows_with_a_target_without_quartiles(results: dict[str, Any]) -> None:
    results["rows"] += [
        {"name": "wrong", "against": "torchvision", "at_least": 2.0, "failed": "differs by 2"},
        measured("pictures", 0.1, 0.2, at_least=1.5, images=8),
        measured("behind", 0.001, 0.0005, at_least=1.0, against="our roi_pool"),
    ]
    text = tables.short(results)
    assert "| Row | Ours | Other | Ratio | Target |" in text
    assert lines(text) == [
        "| `fast` | 1.00 | 20.0 | 20.0× | ≥ 8× reached |",
        "| `not fast enough` | 1.00 | 4.00 | 4.00× | ≥ 8× missed |",
        "| `wrong` | failed: differs by 2 |  |  |  |",
        "| `pictures` | 100, 80.0 images/s | 200, 40.0 images/s | 2.00× | ≥ 1.5× reached |",
        "| `behind` | 1.00 | 0.500 our roi_pool | 0.500× slower | ≥ 1× missed |",
    ]
    assert "Some CPU, 2 threads" in text
    assert "2026-01-02" in text
    assert "a remark" not in text


def test_targets_of_limit_and_memory(results: dict[str, Any]) -> None:
    results["environment"]["device"] = "cuda"
    entry = results["rows"][0]
    # 1 GB at 4 TB/s take a quarter of a millisecond; ours took one.
    entry |= {"limit_at_least": 0.2, "memory_at_most": 0.05, "peak_bytes": {"ours": 10**6, "peer": 10**7}}
    wanted = "≥ 8× reached; ≥ 20% of the limit (25%) reached; ≤ 0.05 of the memory (0.1) missed"
    assert lines(tables.short(results))[0].endswith(f"| {wanted} |")
    results["quick"] = True
    assert "≥ 8×; ≥ 20% of the limit (25%); ≤ 0.05 of the memory (0.1) |" in lines(tables.short(results))[0]


def test_limit_is_the_larger_of_bytes_and_operations(results: dict[str, Any]) -> None:
    old = lines(tables.full(results))
    results["environment"] |= {
        "copy_bytes_per_second": 4e9,
        "read_bytes_per_second": 10e9,
        "first_touch_bytes_per_second": 5e9,
        "operations_per_second": 1e11,
    }
    entry = results["rows"][0]
    assert lines(tables.full(results))[0] == f"{old[0]}  |"  # a row without counts
    assert lines(tables.full(results))[-1] == f"{old[-1]}  |"  # a failed one
    # 2 MB read, 2 MB rewritten, 1 MB fresh: 0.2 + 0.5 + 0.2 ms; 50 M operations take 0.5 ms, 500 M take 5.
    entry |= {"bytes": 5 * 10**6, "written_bytes": 3 * 10**6, "fresh_bytes": 10**6, "operations": 5e7}
    entry["ours"]["median"] = 0.010
    assert lines(tables.full(results))[0].endswith(
        "| 0.900: 2.00 MB read, 1.00 MB fresh, 2.00 MB written (9%) |"
    )
    entry["operations"] = 5e8
    assert lines(tables.full(results))[0].endswith("| 5.00: 500 M operations (50%) |")
    assert "read once, at 10.0 GB/s; each result" in captions.caption(results)
    assert "run at the 100 G/s of a float32 matrix product or convolution." in captions.caption(results)


def test_limit_on_cuda_is_the_larger_of_dram_and_gather(results: dict[str, Any]) -> None:
    results["environment"] |= {"device": "cuda", "l2_bytes_per_second": 5e12}
    entry = results["rows"][0]
    assert lines(tables.full(results))[0].endswith("| 0.250: DRAM (25%) |")  # 1 GB at 4 TB/s, of 1 ms
    entry |= {"gathered_bytes": 10**9, "untouched_bytes": 4 * 10**8}
    assert lines(tables.full(results))[0].endswith("| 0.200: L2 1000 MB (20%); DRAM 0.150 |")
    entry["gathered_bytes"] = 5 * 10**8
    assert lines(tables.full(results))[0].endswith("| 0.150: DRAM (15%); L2 0.100 |")
    assert "from the L2 cache at 5000 GB/s" in captions.caption(results)


def test_readme_and_full_table_are_written_and_checked(tmp_path: Path, results: dict[str, Any]) -> None:
    readme, file = tmp_path / "README.md", tmp_path / "results" / "cpu.json"
    full = file.with_suffix(".md")
    file.parent.mkdir()
    file.write_text(json.dumps(results))
    readme.write_text(f"before\n{report.BEGIN}\nstale\n{report.END}\nafter\n")
    arguments = ["report", str(file), f"--readme={readme}", "--no-plot"]
    assert main([*arguments, "--check"]) == 1
    assert "stale" in readme.read_text()
    assert not full.exists()
    assert main(arguments) == 0
    text = readme.read_text()
    assert text.startswith(f"before\n{report.BEGIN}\n**CPU.** Some CPU, 2 threads")
    assert "[cpu.md](results/cpu.md)" in text
    assert text.endswith(f"(results/cpu.png)\n{report.END}\nafter\n")
    assert "stale" not in text
    assert len(lines(text)) == 2
    assert len(lines(full.read_text())) == 5
    assert main([*arguments, "--check"]) == 0
    full.write_text("stale")
    assert main([*arguments, "--check"]) == 1
    assert main(["report", str(file), "--no-plot"]) == 0
    assert main([*arguments, "--check"]) == 0
    results["rows"][0]["ratio"] = 21.0
    file.write_text(json.dumps(results))
    assert main([*arguments, "--check"]) == 1


def test_the_tables_that_are_kept_are_what_their_json_says() -> None:
    root = Path(report.__file__).parents[1]
    if not (root / "README.md").exists():
        pytest.skip("the tests stand beside an installed package")
    results = root / "benchmarks" / "results"
    assert main(["report", str(results / "cpu.json"), f"--readme={root / 'README.md'}", "--check"]) == 0
    assert main(["report", str(results / "cpu-xeon.json"), "--check"]) == 0


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
    assert tables.full(both) == tables.full(results)
    assert plots.cost_lines(both)["nms, scattered boxes"] == [
        (100, pytest.approx(0.1), pytest.approx(1.0)),
        (300, pytest.approx(0.3), pytest.approx(3.0)),
    ]
    text = report.for_readme({**results, "rows": points}, "folder/size.json")
    assert text.endswith("![CPU: time against size, beside torchvision](folder/size-cost.png)")
    assert "| Row |" not in text
    pytest.importorskip("matplotlib")
    plots.cost(both, tmp_path / "cost.png")
    assert (tmp_path / "cost.png").read_bytes().startswith(b"\x89PNG")
