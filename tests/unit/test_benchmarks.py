"""Targets, tables and profiles of the benchmarks. These tests measure no time."""

import importlib
from dataclasses import asdict
from pathlib import Path

import pytest

from benchmarks.__main__ import SCRIPTS
from benchmarks.cluster_soak import Sample, Soak
from benchmarks.common import Row, median_ratio, number
from benchmarks.report import put_between, table_md
from benchmarks.sustained import profile_of

MACHINE = {
    "processor": "a processor",
    "cores": 2,
    "memory_gib": 8.0,
    "system": "Linux 6",
    "python": "3.11.7",
    "data_on": "tmpfs",
    "load": [0.0, 0.0, 0.0],
    "others_share": 0.1,
}


def test_a_target_is_compared_with_the_ratio_if_there_is_one_else_with_the_measured_value() -> None:
    assert Row(5, "scan", 9.0, "s", limit=2.0, judged=1.5).is_met
    assert not Row(4, "ingest", 9.0, "s", limit=2.0).is_met
    assert Row(3, "rate", 21.9, "tiles/s", limit=18.4, at_most=False).is_met
    assert Row(5, "memory", 1.0, "MiB").is_met is None


def test_the_ratio_of_paired_runs_is_the_median_of_their_ratios() -> None:
    assert median_ratio([1.0, 20.0, 3.0], [1.0, 10.0, 1.0]) == 2.0


@pytest.mark.parametrize(("value", "text"), [(0.01234, "0.0123"), (12345.6, "12,346"), (0.0, "0"), (None, "")])
def test_numbers_have_three_digits_or_all_digits_before_the_point(value: float | None, text: str) -> None:
    assert number(value) == text


def test_a_missed_target_is_bold_in_the_table() -> None:
    row = Row(5, "start", 5.0, "s", limit=2.0, judged=2.8, ratio=2.8, ratio_is="measured / floor", note="a|b")
    result = {"benchmark": "x", "quick": False, "seconds": 3, "machine": MACHINE, "plots": [], "facts": {}}
    rows = [{**asdict(row), "met": row.is_met}]
    table = table_md([{**result, "rows": rows}], [{**result, "rows": [{**rows[0], "measured": 7.0, "ratio": 3.5}]}])
    assert "| 5 | start | **5 s** | 7 s, 3.5 |" in table
    assert "| **no** | a\\|b |" in table
    assert "others 10 %" in table


def test_a_new_table_leaves_the_rest_of_the_page_unchanged() -> None:
    page = "before\n<!-- table -->\nold\n<!-- end of table -->\nafter\n"
    assert put_between(page, "table", "new\n") == page.replace("old", "new")
    with pytest.raises(SystemExit, match="no marks"):
        put_between("nothing", "table", "new")


def test_waits_are_excluded_from_a_profile() -> None:
    raw = "main (a.py:1);work (b.py:2) 30\nmain (a.py:1);Condition.wait (threading.py:331) 900\nother (c.py:3) 10"
    assert profile_of(raw) == [("work (b.py)", 0.75), ("other (c.py)", 0.25)]


def test_a_killed_soak_is_evaluated_from_its_lines_and_its_memory_from_the_second_half(tmp_path: Path) -> None:
    """Memory grows by 100 bytes with each tile in the first half, while caches fill, and by 2 in the second half."""
    lines = tmp_path / "lines.jsonl"
    killed = Soak(lines)
    for tiles in range(0, 2001, 100):
        rss_bytes = 100 * min(tiles, 1000) + 2 * max(0, tiles - 1000)
        killed.add(Sample(tiles, tiles / 10, {"scheduler": rss_bytes}, {"scheduler": tiles / 1000}))
    found = Soak.read(lines)
    assert found.samples == killed.samples
    rate, memory = found.rows()
    assert (rate.what.split()[0], rate.measured, rate.note) == ("2,000", 10.0, "CPU of a tile: scheduler 1.00 ms")
    assert memory.measured == pytest.approx(2.0)


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_can_be_imported(script: str) -> None:
    """A script imports the libraries that only `make bench` installs when it runs, not when it is imported."""
    importlib.import_module(f"benchmarks.{script}")
