"""Life cycle of a stack: examples, and random events that check its invariants."""

from hypothesis import given
from hypothesis import strategies as st

from daemon.pipeline.stacks.use import (
    CloseRule,
    StackPhase,
    StackUse,
    begin_closing,
    begin_writing,
    close_due_in_s,
    end_closing,
    end_deriving,
    end_writing,
    hold,
    release,
    request_close,
)

AFTER_60_S = CloseRule(60.0)
AT_ONCE = CloseRule(0.0)


def test_a_stack_without_holders_closes_after_the_quiet_time():
    use = release(release(hold(hold(request_close(StackUse(), now=5.0))), now=10.0), now=20.0)
    assert use.phase is StackPhase.QUIET
    assert close_due_in_s(use, 50.0, AFTER_60_S) == 30.0
    assert close_due_in_s(use, 80.0, AFTER_60_S) == 0.0


def test_a_stack_without_a_close_request_is_not_closed():
    use = release(hold(StackUse()), now=10.0)
    assert use.phase is StackPhase.IDLE
    assert close_due_in_s(use, 1e9, CloseRule(0.0, 1.0)) is None


def test_a_stack_with_one_of_two_holders_left_does_not_close():
    use = release(hold(hold(request_close(StackUse(), now=5.0))), now=10.0)
    assert use.phase is StackPhase.HELD
    assert close_due_in_s(use, 1e9, AT_ONCE) is None


def test_a_stack_that_never_gets_quiet_closes_at_its_latest_time():
    use = hold(request_close(StackUse(), now=5.0))
    for now in range(10, 1000, 10):
        use = request_close(release(hold(use), float(now)), float(now))
    assert close_due_in_s(use, 800.0, CloseRule(60.0, 900.0)) == 105.0
    assert close_due_in_s(use, 905.0, CloseRule(60.0, 900.0)) == 0.0


def test_a_busy_stack_stays_open_for_ten_times_the_duration_of_its_last_close():
    use = begin_closing(hold(request_close(StackUse(), now=0.0)), now=900.0)
    use = end_closing(request_close(use, now=950.0), now=1100.0, closed=True)
    assert use.phase is StackPhase.HELD
    assert close_due_in_s(use, 1100.0, CloseRule(60.0, 900.0)) == 2000.0
    assert close_due_in_s(release(use, now=1200.0), 1200.0, CloseRule(60.0, 900.0)) == 60.0


def test_the_pause_between_closes_depends_on_the_derivation_and_not_on_the_comparison():
    use = begin_closing(hold(request_close(StackUse(), now=0.0)), now=900.0)
    use = request_close(end_deriving(use, now=920.0), now=930.0)
    use = end_closing(use, now=1600.0, closed=True)
    assert close_due_in_s(use, 1600.0, CloseRule(60.0, 900.0)) == 230.0  # at 930 + 900, later than 1600 + 10 * 20
    assert close_due_in_s(use, 1600.0, CloseRule(60.0, 10.0)) == 200.0


def test_the_end_of_a_derivation_is_ignored_while_the_stack_is_not_being_closed():
    use = end_deriving(request_close(StackUse(), now=0.0), now=500.0)
    use = end_closing(begin_closing(use, now=900.0), now=910.0, closed=True)
    assert use.derivation_s == 10.0


def test_a_stack_whose_close_failed_is_due_again_after_the_retry_delay():
    use = begin_closing(release(hold(request_close(StackUse(), now=0.0)), now=0.0), now=70.0)
    use = end_closing(use, now=100.0, closed=False, retry_in_s=80.0)
    assert use.phase is StackPhase.QUIET
    assert close_due_in_s(use, 100.0, AFTER_60_S) == 80.0
    assert close_due_in_s(use, 100.0, CloseRule(100.0)) == 100.0
    assert close_due_in_s(hold(use), 100.0, CloseRule(0.0, 5.0)) == 300.0


def test_a_holder_that_arrives_during_a_close_holds_the_stack_afterwards():
    use = hold(begin_closing(request_close(StackUse(), now=0.0), now=0.0))
    assert use.phase is StackPhase.CLOSING
    use = end_closing(use, now=5.0, closed=True)
    assert use.phase is StackPhase.HELD
    assert use.holders == 1


def test_a_close_requested_during_a_close_stays_pending():
    use = request_close(begin_closing(request_close(StackUse(), now=0.0), now=0.5), now=1.0)
    assert close_due_in_s(end_closing(use, now=2.0, closed=True), 2.0, CloseRule(0.5)) == 0.5


@given(
    st.lists(
        st.sampled_from(["hold", "release", "write", "written", "request", "close", "closed", "failed"]), max_size=40
    ),
    st.sampled_from([0.0, 1.0, 7.0]),
)
def test_a_held_stack_is_due_at_its_latest_time_only_and_no_close_request_is_lost(actions, at_latest_s):
    use, now, requested_at, closing_from = StackUse(), 0.0, -1.0, -1.0
    rule = CloseRule(0.0, at_latest_s)
    for action in actions:
        now += 1.0
        if action == "hold":
            use = hold(use)
        elif action == "request":
            use, requested_at = request_close(use, now), now
        elif action == "release" and use.holders > use.writers:
            use = release(use, now)
        elif action == "write" and use.holders > use.writers and use.phase is not StackPhase.CLOSING:
            use = begin_writing(use)
        elif action == "written" and use.writers:
            use = end_writing(use)
        elif action == "close" and close_due_in_s(use, now, rule) == 0.0 and not use.writers:
            use, closing_from = begin_closing(use, now), now
        elif action in ("closed", "failed") and use.phase is StackPhase.CLOSING:
            use = end_closing(use, now, closed=action == "closed")
        assert 0 <= use.writers <= use.holders
        if use.holders and not at_latest_s:
            assert close_due_in_s(use, now, rule) is None
        if use.holders and close_due_in_s(use, now, rule) is not None:
            assert now + close_due_in_s(use, now, rule) >= use.requested_at + at_latest_s
        if use.phase is StackPhase.IDLE:
            assert requested_at <= closing_from
        if use.phase in (StackPhase.HELD, StackPhase.QUIET) and requested_at > closing_from:
            assert use.requested_at is not None
