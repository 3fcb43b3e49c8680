"""The timeline of a montage: one list, in order of time."""

from daemon.web.pages.timeline import Line, event_text, timeline


def attempt(step: str, started_at: float, outcome: str | None, problem: str = "") -> dict[str, object]:
    fault = {"subject": "m", "problem": problem, "hint": ""} if problem else None
    ended_at = None if outcome is None else started_at + 1
    return {"step": step, "started_at": started_at, "ended_at": ended_at, "outcome": outcome, "fault": fault}


def event(name: str, at: float, **detail: object) -> dict[str, object]:
    return {"at": at, "event": name, "state": name, "detail": detail}


def test_the_text_of_an_event_is_its_problem_or_its_reason() -> None:
    assert event_text({"fault": {"problem": "has no data"}, "attempt": 3}) == "has no data"
    assert event_text({"because": "requested by an operator", "failed_in": "settled"}) == "requested by an operator"


def test_events_and_attempts_are_in_one_order_of_time() -> None:
    events = [event("noticed", 0.0, found_by="scan"), event("settled", 3.0, tiles=4), event("ingested", 9.0)]
    attempts = [attempt("settle", 1.0, "waiting"), attempt("settle", 2.0, "done"), attempt("ingest", 3.0, "done")]
    assert [(line.at, line.what, line.count) for line in timeline(events, attempts)] == [
        (0.0, "noticed", 0),
        (1.0, "settle", 1),
        (2.0, "settle", 1),
        (3.0, "settled", 0),
        (3.0, "ingest", 1),
        (9.0, "ingested", 0),
    ]


def test_consecutive_equal_attempts_are_one_line() -> None:
    attempts = [
        *(attempt("settle", at, "waiting", "2 images are missing") for at in (0.0, 60.0, 120.0)),
        attempt("settle", 180.0, "waiting", "1 image is missing"),
        attempt("settle", 240.0, "done"),
        attempt("ingest", 250.0, None),
    ]
    assert timeline([], attempts) == [
        Line(0.0, "settle", "2 images are missing", 3, "waiting", 121.0),
        Line(180.0, "settle", "1 image is missing", 1, "waiting", 1.0),
        Line(240.0, "settle", "", 1, "done", 1.0),
        Line(250.0, "ingest", "", 1, "running", None),
    ]


def test_an_event_between_equal_attempts_separates_them() -> None:
    attempts = [attempt("settle", at, "waiting", "1 image is missing") for at in (0.0, 60.0, 120.0)]
    lines = timeline([event("retried", 90.0, by="anna")], attempts)
    assert [(line.what, line.count, line.text) for line in lines] == [
        ("settle", 2, "1 image is missing"),
        ("retried", 0, "by anna"),
        ("settle", 1, "1 image is missing"),
    ]


def test_the_order_is_that_of_time_also_after_the_clock_was_set_back() -> None:
    lines = timeline([event("noticed", 50.0), event("settled", 10.0)], [attempt("settle", 20.0, "done")])
    assert [line.what for line in lines] == ["settled", "settle", "noticed"]
