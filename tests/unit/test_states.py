"""The montage's and the stack's state machines: tables, and walks that check what must always hold."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.montages.states import (
    STEP_OF_STATE,
    UNFINISHED,
    Closing,
    Event,
    IllegalTransition,
    MontageState,
    StackPhase,
    StackUse,
    advance,
    begin_closing,
    begin_writing,
    closes_in,
    end_closing,
    end_writing,
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


@pytest.mark.parametrize("state", [MontageState.MIPMAPPED, MontageState.APPLIED, MontageState.COMPLETE])
def test_images_that_changed_have_their_mipmaps_made_again_and_nothing_else(state):
    assert advance(state, Event.IMAGES_CHANGED) is MontageState.INGESTED


@pytest.mark.parametrize("state", [MontageState.SETTLED, MontageState.INGESTED, MontageState.FAILED, None])
def test_images_that_no_level_shows_yet_change_nothing(state):
    with pytest.raises(IllegalTransition):
        advance(state, Event.IMAGES_CHANGED)


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


AFTER_60_S = Closing(60.0)
AT_ONCE = Closing(0.0)


def test_a_stack_closes_when_nobody_holds_it_and_it_has_been_quiet():
    use = release(release(hold(hold(want_closed(StackUse(), now=5.0))), now=10.0), now=20.0)
    assert use.phase is StackPhase.QUIET
    assert closes_in(use, 50.0, AFTER_60_S) == 30.0
    assert closes_in(use, 80.0, AFTER_60_S) == 0.0


def test_a_stack_that_nothing_waits_for_is_not_closed():
    use = release(hold(StackUse()), now=10.0)
    assert use.phase is StackPhase.IDLE
    assert closes_in(use, 1e9, Closing(0.0, 1.0)) is None


def test_a_stack_that_one_of_two_still_holds_does_not_close():
    use = release(hold(hold(want_closed(StackUse(), now=5.0))), now=10.0)
    assert use.phase is StackPhase.HELD
    assert closes_in(use, 1e9, AT_ONCE) is None


def test_a_stack_that_never_gets_quiet_closes_at_the_latest():
    use = hold(want_closed(StackUse(), now=5.0))
    for now in range(10, 1000, 10):
        use = want_closed(release(hold(use), float(now)), float(now))
    assert closes_in(use, 800.0, Closing(60.0, 900.0)) == 105.0
    assert closes_in(use, 905.0, Closing(60.0, 900.0)) == 0.0


def test_a_stack_that_never_gets_quiet_is_closed_the_more_rarely_the_longer_it_takes():
    use = begin_closing(hold(want_closed(StackUse(), now=0.0)), now=900.0)
    use = end_closing(want_closed(use, now=950.0), now=1100.0, closed=True)
    assert use.phase is StackPhase.HELD
    assert closes_in(use, 1100.0, Closing(60.0, 900.0)) == 2000.0
    assert closes_in(release(use, now=1200.0), 1200.0, Closing(60.0, 900.0)) == 60.0


def test_a_stack_whose_close_failed_is_due_again_later():
    use = begin_closing(release(hold(want_closed(StackUse(), now=0.0)), now=0.0), now=70.0)
    use = end_closing(use, now=100.0, closed=False, again_in_s=80.0)
    assert use.phase is StackPhase.QUIET
    assert closes_in(use, 100.0, AFTER_60_S) == 80.0
    assert closes_in(use, 100.0, Closing(100.0)) == 100.0
    assert closes_in(hold(use), 100.0, Closing(0.0, 5.0)) == 300.0


def test_somebody_who_comes_while_a_stack_closes_holds_it_afterwards():
    use = hold(begin_closing(want_closed(StackUse(), now=0.0), now=0.0))
    assert use.phase is StackPhase.CLOSING
    use = end_closing(use, now=5.0, closed=True)
    assert use.phase is StackPhase.HELD
    assert use.holders == 1


def test_a_montage_that_asks_while_the_stack_closes_is_not_forgotten():
    use = want_closed(begin_closing(want_closed(StackUse(), now=0.0), now=0.5), now=1.0)
    assert closes_in(end_closing(use, now=2.0, closed=True), 2.0, Closing(0.5)) == 0.5


@given(
    st.lists(
        st.sampled_from(["hold", "release", "write", "written", "want", "close", "closed", "failed"]), max_size=40
    ),
    st.sampled_from([0.0, 1.0, 7.0]),
)
def test_a_held_stack_is_due_at_the_latest_alone_and_who_wants_it_closed_is_never_forgotten(actions, at_latest_s):
    use, now, wanted_at, closing_from = StackUse(), 0.0, -1.0, -1.0
    times = Closing(0.0, at_latest_s)
    for action in actions:
        now += 1.0
        if action == "hold":
            use = hold(use)
        elif action == "want":
            use, wanted_at = want_closed(use, now), now
        elif action == "release" and use.holders > use.writers:
            use = release(use, now)
        elif action == "write" and use.holders > use.writers and use.phase is not StackPhase.CLOSING:
            use = begin_writing(use)
        elif action == "written" and use.writers:
            use = end_writing(use)
        elif action == "close" and closes_in(use, now, times) == 0.0 and not use.writers:
            use, closing_from = begin_closing(use, now), now
        elif action in ("closed", "failed") and use.phase is StackPhase.CLOSING:
            use = end_closing(use, now, closed=action == "closed")
        assert 0 <= use.writers <= use.holders
        if use.holders and not at_latest_s:
            assert closes_in(use, now, times) is None
        if use.holders and closes_in(use, now, times) is not None:
            assert now + closes_in(use, now, times) >= use.wanted_at + at_latest_s
        if use.phase is StackPhase.IDLE:
            assert wanted_at <= closing_from
        if use.phase in (StackPhase.HELD, StackPhase.QUIET) and wanted_at > closing_from:
            assert use.wanted_at is not None
