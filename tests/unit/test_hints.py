"""Hints are gathered: many events, one wake-up."""

from daemon.watching.event_hints import MOST_HINTS, Batch, HintBox


def box_with_bell() -> tuple[HintBox, list[None]]:
    bell: list[None] = []
    return HintBox(lambda: bell.append(None)), bell


def test_many_hints_ring_once() -> None:
    box, bell = box_with_bell()
    for _ in range(50_000):
        box.file("/data/a/_metadata_1_.json")
    assert len(bell) == 1
    assert box.take() == Batch(files=frozenset({"/data/a/_metadata_1_.json"}))


def test_an_emptied_box_rings_again() -> None:
    box, bell = box_with_bell()
    box.tree("/data/a")
    assert box.take() == Batch(trees=frozenset({"/data/a"}))
    assert not box.take()
    box.tree("/data/b")
    assert len(bell) == 2


def test_too_many_different_hints_ask_for_a_look_at_everything() -> None:
    box, _ = box_with_bell()
    for number in range(MOST_HINTS + 5):
        box.file(f"/data/{number}")
    batch = box.take()
    assert batch.is_flooded
    assert len(batch.files) == MOST_HINTS
