"""The montage's and the stack's state machines: tables, and walks that check what must always hold."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.states import (
    STEP_OF_STATE,
    UNFINISHED,
    Event,
    IllegalTransition,
    MontageState,
    StackPhase,
    StackUse,
    advance,
    begin_closing,
    closes_in,
    end_closing,
    fold,
    hold,
    release,
    want_closed,
)

WAY = [Event.NOTICED, Event.SETTLED, Event.INGESTED, Event.MIPMAPPED, Event.APPLIED, Event.COMPLETED]


def test_an_undisturbed_montage_goes_from_noticed_to_complete():
    assert fold((event, None) for event in WAY) is MontageState.COMPLETE


@pytest.mark.parametrize("state", sorted(UNFINISHED))
def test_a_montage_can_fail_wherever_it_stands_and_goes_on_there_when_retried(state):
    failed = advance(state, Event.FAILED)
    assert failed is MontageState.FAILED
    assert advance(failed, Event.RETRIED, failed_in=state) is state


def test_a_complete_montage_cannot_fail():
    with pytest.raises(IllegalTransition, match="failed cannot happen to a montage that is complete"):
        advance(MontageState.COMPLETE, Event.FAILED)


@pytest.mark.parametrize("state", [MontageState.FAILED, MontageState.COMPLETE, MontageState.SUPERSEDED])
def test_a_replayed_montage_starts_again_from_its_tile_specs(state):
    assert advance(state, Event.REPLAYED) is MontageState.SETTLED


def test_lost_mipmaps_are_made_again_and_nothing_else():
    assert advance(MontageState.MIPMAPPED, Event.MIPMAPS_LOST) is MontageState.INGESTED


def test_a_step_cannot_be_skipped():
    with pytest.raises(IllegalTransition):
        advance(MontageState.SETTLED, Event.MIPMAPPED)


def test_every_unfinished_state_has_a_step_and_no_finished_one_has():
    assert set(STEP_OF_STATE) == UNFINISHED
    assert not UNFINISHED & {MontageState.COMPLETE, MontageState.FAILED, MontageState.SUPERSEDED, MontageState.IGNORED}


@given(st.lists(st.sampled_from(Event), max_size=30))
def test_whatever_happens_a_montage_is_complete_only_after_every_step_was_done_since_it_settled(events):
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


def test_a_stack_closes_when_nobody_holds_it_and_it_has_been_quiet():
    use = release(release(hold(hold(StackUse())), now=10.0), now=20.0)
    assert use.phase is StackPhase.QUIET
    assert closes_in(use, now=50.0, close_after_s=60.0) == 30.0
    assert closes_in(use, now=80.0, close_after_s=60.0) == 0.0


def test_a_stack_that_one_of_two_still_holds_does_not_close():
    use = release(hold(hold(StackUse())), now=10.0)
    assert use.phase is StackPhase.HELD
    assert closes_in(use, now=1e9, close_after_s=0.0) is None


def test_a_stack_whose_close_failed_is_due_again_later():
    use = end_closing(begin_closing(release(hold(StackUse()), now=0.0)), now=100.0, closed=False)
    assert use.phase is StackPhase.QUIET
    assert closes_in(use, now=100.0, close_after_s=60.0) == 60.0


def test_somebody_who_comes_while_a_stack_closes_holds_it_afterwards():
    use = end_closing(hold(begin_closing(release(hold(StackUse()), now=0.0))), now=5.0, closed=True)
    assert use.phase is StackPhase.HELD
    assert use.holders == 1


def test_a_montage_that_asks_while_the_stack_closes_is_not_forgotten():
    use = want_closed(begin_closing(want_closed(StackUse(), now=0.0)), now=1.0)
    assert closes_in(end_closing(use, now=2.0, closed=True), now=2.0, close_after_s=0.5) == 0.5


@given(st.lists(st.sampled_from(["hold", "release", "want", "close", "closed", "failed"]), max_size=40))
def test_a_held_stack_is_never_due_and_who_wants_it_closed_is_never_forgotten(actions):
    use, now, wanted_at, closing_from = StackUse(), 0.0, -1.0, -1.0
    for action in actions:
        now += 1.0
        if action == "hold":
            use = hold(use)
        elif action == "want":
            use, wanted_at = want_closed(use, now), now
        elif action == "release" and use.holders:
            use = release(use, now)
        elif action == "close" and closes_in(use, now, 0.0) == 0.0:
            use, closing_from = begin_closing(use), now
        elif action in ("closed", "failed") and use.phase is StackPhase.CLOSING:
            use = end_closing(use, now, closed=action == "closed")
        assert use.holders >= 0
        if use.holders:
            assert closes_in(use, now, 0.0) is None
        if use.phase is StackPhase.IDLE:
            assert wanted_at <= closing_from
