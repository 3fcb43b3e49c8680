"""The text of `temwatch status`: what an unfinished montage waits for, times, and the file that a fault is about."""

from datetime import UTC, datetime
from typing import Any

import pytest

from daemon.commands.replay.progress import waiting_reason
from daemon.commands.status.causes import by_cause, cause_of
from daemon.commands.status.report import narrowed
from daemon.commands.status.text import View, _times, status_text

NOW = datetime(2026, 1, 5, 12, 0, tzinfo=UTC)


def montage(number: int = 1, **values: Any) -> dict[str, Any]:
    row: dict[str, Any] = {"id": number, "watch": "a", "metafile": f"/d/_metadata_{number}_0_.json", "state": "settled"}
    row |= {"failed_in": None, "z": float(number), "tiles": 4, "fault": None, "waiting_for": None, "attempt": 1}
    return {**row, "next_try_at": None, "noticed_at": "2026-01-05T11:00:00+00:00", "changed_at": None, **values}


def report(*montages: dict[str, Any], **values: Any) -> dict[str, Any]:
    counts = {"a": {"settled": len(montages)}}
    config = {"file": "c.toml", "problems": [], "changed_at": None}
    found = {"running": True, "ready": True, "url": "http://h:1", "pid": 1, "reasons": [], "warnings": []}
    return {**found, "config": config, "counts": counts, "montages": list(montages), "last_complete": None, **values}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, "in progress or queued:"),
        (
            {"ready": False, "reasons": ["render-ws is unavailable"]},
            "the reason why the daemon is not ready is shown above:",
        ),
        ({"running": False, "pid": None}, "waits until the daemon runs:"),
    ],
)
def test_the_text_states_what_a_montage_without_a_fault_waits_for(values: dict[str, Any], expected: str) -> None:
    assert expected in status_text(report(montage(), **values), View(NOW))


def test_times_of_one_minute_are_shown_once_and_ages_within_a_day() -> None:
    rows = [montage(n, noticed_at=f"2026-01-05T11:00:0{n}+00:00") for n in range(3)]
    text = status_text(report(*rows), View(NOW, by_cause=True))
    assert "since 11:00\n" in text
    assert "the oldest noticed 11:00 (1 h 0 min ago)" in text


@pytest.mark.parametrize("subject", ["/d/_metadata_1_0_.json", "_metadata_1_0_.json"])
def test_a_fault_of_the_metafile_does_not_repeat_its_name(subject: str) -> None:
    fault = {"kind": "ZFault", "subject": subject, "problem": "no row has grid 1", "hint": "add the section"}
    assert cause_of(montage(fault=fault)) == "no row has grid 1 (add the section)"


def test_a_montage_that_waits_for_its_directory_does_not_show_a_former_fault() -> None:
    fault = {"kind": "StorageFault", "subject": "/data/a.tif", "problem": "could not be read", "hint": ""}
    away = "the directory of watch temca2 cannot be accessed"
    waiting = montage(fault=fault, waiting_for=away)
    text = status_text(report(waiting), View(NOW, by_cause=True))
    assert cause_of(waiting) == away
    assert "1 x z 1" in text
    assert "could not be read" not in text
    assert "StorageFault" not in text
    assert waiting_reason(waiting) == away
    failed = montage(state="failed", failed_in="settled", fault=fault, waiting_for="3 of 4 images")
    assert cause_of(failed) == "/data/a.tif: could not be read"


def test_causes_that_differ_in_numbers_and_names_only_are_one_group() -> None:
    def fault(number: int, problem: str) -> dict[str, Any]:
        return {"kind": "ImageFault", "subject": f"/d/{number}.tif", "problem": problem, "hint": ""}

    rows = [montage(n, fault=fault(n, f"has {n} bytes, expected 7 of col{n}.tif")) for n in range(5)]
    other = montage(9, fault=fault(9, "cannot be decoded"))
    assert [len(cause.montages) for cause in by_cause([other, *rows])] == [5, 1]


def test_more_than_ten_causes_are_abbreviated_with_a_count_and_shown_on_request() -> None:
    values = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
    rows = [
        montage(
            number,
            state="failed",
            failed_in="noticed",
            changed_at="2026-01-05T11:30:00+00:00",
            fault={"kind": "MetafileFault", "subject": "x", "problem": f"lacks {value}", "hint": ""},
        )
        for number, value in enumerate(values)
    ]
    assert "and 2 more causes of 2 montages: temwatch status --by-cause" in status_text(report(*rows), View(NOW))
    assert "more causes" not in status_text(report(*rows), View(NOW, by_cause=True))


@pytest.mark.parametrize(("attempt", "end"), [(0, "in step settle"), (1, "after 1 attempt"), (5, "after 5 attempts")])
def test_a_montage_that_failed_before_an_attempt_shows_no_number_of_attempts(attempt: int, end: str) -> None:
    montage: dict[str, Any] = {
        "state": "failed",
        "failed_in": "noticed",
        "attempt": attempt,
        "changed_at": "2026-01-05T09:01:00.000+00:00",
    }
    assert _times([montage], View(NOW)).endswith(end)


@pytest.mark.parametrize("width", [40, 80, 160])
def test_a_path_longer_than_a_line_is_wrapped_and_complete_in_a_pipe(width: int) -> None:
    path = "/data/" + "/".join(f"directory_{n:03d}_of_a_long_path" for n in range(12)) + "/" + "n" * 200 + ".json"
    fault = {"kind": "ZFault", "subject": path, "problem": "no row has grid 1", "hint": f"add it to {path}"}
    row = montage(metafile=path, state="failed", failed_in="noticed", changed_at="2026-01-05T11:30:00+00:00", z=None)
    shown = report({**row, "fault": fault}, montage(2, metafile=path, z=None))
    for view in (View(NOW, width), View(NOW, width, failed=True)):
        lines = status_text(shown, view).splitlines()
        assert [line for line in lines if len(line) > width] == []
        assert path in "".join(line.strip() for line in lines)
    assert path in status_text(shown, View(NOW))


def test_json_is_narrowed_to_a_watch_and_to_failed_montages() -> None:
    rows = [montage(1), montage(2, state="failed"), montage(3, watch="b", state="failed")]
    whole = report(*rows, last_complete=montage(4), watches=[{"name": "a"}, {"name": "b"}])
    whole["counts"]["b"] = {"failed": 1}

    def ids(**chosen: Any) -> list[int]:
        return [each["id"] for each in narrowed(whole, **chosen)["montages"]]

    assert ids(watch=None, failed=False) == [1, 2, 3]
    assert ids(watch=None, failed=True) == [2, 3]
    assert ids(watch="a", failed=False) == [1, 2]
    assert ids(watch="b", failed=True) == [3]
    part = narrowed(whole, watch="b", failed=False)
    assert (part["counts"], part["watches"]) == ({"b": {"failed": 1}}, [{"name": "b"}])
    assert part["last_complete"] is None


def test_workers_are_shown_in_total_and_by_host() -> None:
    counts = {"threads": 2, "tiles_in_flight": 2, "problems": []}
    hosts = [
        {"host": "node7", "workers": 1, "refused": 0, **counts},
        {"host": "node8", "workers": 0, "refused": 3, **counts},
    ]
    workers = {"scheduler": "tcp://s:8786", "problem": "", "tiles_submitted": 96, "hosts": hosts}
    lines = status_text(report(workers=workers), View(NOW)).splitlines()
    start = lines.index(
        "workers     1 worker (3 refused), 4 tiles in flight on 2 hosts of tcp://s:8786; 96 tiles queued or running"
    )
    assert lines[start + 1 : start + 3] == [
        "            node7: 1 worker, 2 tiles in flight",
        "            node8: 0 workers (3 refused), 2 tiles in flight",
    ]
