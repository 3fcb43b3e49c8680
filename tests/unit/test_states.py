"""State machine of a montage: single transitions, and random events that check its invariants."""

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


@given(st.lists(st.sampled_from(Event), max_size=30))
def test_a_montage_is_complete_only_after_every_step_since_it_settled_or_was_replayed(events):
    state, failed_in, done = advance(None, Event.NOTICED), None, set()
    for event in events:
        try:
            following = advance(state, event, failed_in=failed_in)
        except IllegalTransition:
            continue
        if event in (Event.SETTLED, Event.REPLAYED):
            done = set()
        done.add(event)
        failed_in = state if event is Event.FAILED else failed_in
        state = following
        if state is MontageState.COMPLETE:
            assert {Event.INGESTED, Event.MIPMAPPED, Event.APPLIED, Event.COMPLETED} <= done
