"""Hints are collected, so that many events cause one notification."""

from daemon.watching.event_hints import MAX_HINTS, Batch, HintBox


def box_with_counter() -> tuple[HintBox, list[None]]:
    calls: list[None] = []
    return HintBox(lambda: calls.append(None)), calls


def test_many_hints_notify_once() -> None:
    box, calls = box_with_counter()
    for _ in range(50_000):
        box.file("/data/a/_metadata_1_.json")
    assert len(calls) == 1
    assert box.take() == Batch(files=frozenset({"/data/a/_metadata_1_.json"}))


def test_a_hint_in_an_emptied_box_notifies_again() -> None:
    box, calls = box_with_counter()
    box.tree("/data/a")
    assert box.take() == Batch(trees=frozenset({"/data/a"}))
    assert not box.take()
    box.tree("/data/b")
    assert len(calls) == 2


def test_too_many_distinct_hints_cause_a_scan_of_everything() -> None:
    box, _ = box_with_counter()
    for number in range(MAX_HINTS + 5):
        box.file(f"/data/{number}")
    batch = box.take()
    assert batch.is_flooded
    assert len(batch.files) == MAX_HINTS
