"""State machine of a montage: single transitions, and random events that check its invariants."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.montages.states import (
    STEP_OF_STATE,
    UNFINISHED,
    Event,
    IllegalTransition,
    MontageState,
    advance,
    fold,
)

UNDISTURBED = [Event.NOTICED, Event.SETTLED, Event.INGESTED, Event.MIPMAPPED, Event.APPLIED, Event.COMPLETED]


def test_an_undisturbed_montage_goes_from_noticed_to_complete():
    assert fold((event, None) for event in UNDISTURBED) is MontageState.COMPLETE


@pytest.mark.parametrize("state", sorted(UNFINISHED))
def test_a_montage_can_fail_in_every_unfinished_state_and_resumes_there_when_retried(state):
    failed = advance(state, Event.FAILED)
    assert failed is MontageState.FAILED
    assert advance(failed, Event.RETRIED, failed_in=state) is state


def test_a_complete_montage_cannot_fail():
    with pytest.raises(IllegalTransition, match="failed cannot happen to a montage that is complete"):
        advance(MontageState.COMPLETE, Event.FAILED)


@pytest.mark.parametrize("state", [MontageState.FAILED, MontageState.COMPLETE, MontageState.SUPERSEDED])
def test_a_replayed_montage_is_settled_by_default(state):
    assert advance(state, Event.REPLAYED) is MontageState.SETTLED


def test_lost_mipmaps_lead_back_to_ingested():
    assert advance(MontageState.MIPMAPPED, Event.MIPMAPS_LOST) is MontageState.INGESTED


@pytest.mark.parametrize("state", [MontageState.APPLIED, MontageState.COMPLETE])
def test_lost_tiles_lead_back_to_mipmapped(state):
    assert advance(state, Event.TILES_LOST) is MontageState.MIPMAPPED


@pytest.mark.parametrize("state", [MontageState.MIPMAPPED, MontageState.APPLIED, MontageState.COMPLETE])
def test_changed_images_lead_back_to_ingested(state):
    assert advance(state, Event.IMAGES_CHANGED) is MontageState.INGESTED


@pytest.mark.parametrize("state", [MontageState.SETTLED, MontageState.INGESTED, MontageState.FAILED, None])
def test_images_cannot_change_before_mipmaps_were_made(state):
    with pytest.raises(IllegalTransition):
        advance(state, Event.IMAGES_CHANGED)


def test_a_step_cannot_be_skipped():
    with pytest.raises(IllegalTransition):
        advance(MontageState.SETTLED, Event.MIPMAPPED)


def test_exactly_the_unfinished_states_have_a_step():
    assert set(STEP_OF_STATE) == UNFINISHED
    assert not UNFINISHED & {MontageState.COMPLETE, MontageState.FAILED, MontageState.SUPERSEDED, MontageState.IGNORED}


STATE_OF_STEP = {
    Event.INGESTED: MontageState.INGESTED,
    Event.MIPMAPPED: MontageState.MIPMAPPED,
    Event.APPLIED: MontageState.APPLIED,
    Event.COMPLETED: MontageState.COMPLETE,
}
"""Event at the end of each step after settling -> the state that it leads to, in order."""
ORDER = [MontageState.NOTICED, MontageState.SETTLED, *STATE_OF_STEP.values()]


def possible_events(state: MontageState, failed_in: MontageState | None) -> dict[Event, MontageState]:
    """Return the events that can happen in a state, each with the state after it."""
    found = {}
    for event in Event:
        with contextlib.suppress(IllegalTransition):
            found[event] = advance(state, event, failed_in=failed_in)
    return found


@given(st.data())
def test_a_montage_is_complete_only_after_every_step_since_it_was_last_set_back(data):
    state, failed_in, done = MontageState.NOTICED, None, set()
    for _ in range(data.draw(st.integers(5, 40))):
        possible = possible_events(state, failed_in)
        progress = [event for event in possible if event is Event.SETTLED or event in STATE_OF_STEP]
        event = data.draw(st.sampled_from([*progress * 10, *possible]))
        following = possible[event]
        if event in STATE_OF_STEP:
            done.add(event)
        elif following in ORDER:
            done = {each for each in done if ORDER.index(STATE_OF_STEP[each]) <= ORDER.index(following)}
        failed_in = state if event is Event.FAILED else failed_in
        state = following
        if state is MontageState.COMPLETE:
            assert done == set(STATE_OF_STEP)
