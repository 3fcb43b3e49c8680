"""The circuit before render-ws, walked by hypothesis and by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.pipeline.circuit_breaker import (
    BROKEN_IN_A_ROW,
    LONGEST_DELAY_S,
    UNTRIED_S,
    Circuit,
    Phase,
    answered,
    begun,
    cancelled,
    failed,
    opening_delay_s,
    silent,
    worked,
)
from daemon.pipeline.retry import LIMITED_ATTEMPTS, Tries
from daemon.pipeline.retry import LONGEST_DELAY_S as LONGEST_RETRY_S
from handlers.errors import ReadBackDiffers, RenderUnavailable


def away(circuit: Circuit, work: int = 1, now: float = 0.0) -> Circuit:
    return failed(circuit, work, now, 0.5, is_away=True)


def broken(circuit: Circuit, work: int, now: float = 0.0) -> Circuit:
    return failed(circuit, work, now, 0.5, is_away=False)


def failing_at_work() -> Circuit:
    circuit = Circuit()
    for work in range(BROKEN_IN_A_ROW):
        circuit = broken(circuit, work)
    return circuit


def test_a_service_that_is_away_gets_nothing_until_it_answered_and_then_one_piece_of_work():
    circuit = away(Circuit())
    assert circuit.phase is Phase.OPEN
    assert not circuit.may_pass
    assert answered(circuit, circuit.due_at - 0.1) == circuit
    circuit = answered(circuit, circuit.due_at)
    assert circuit.phase is Phase.HALF_OPEN
    assert circuit.may_pass
    circuit = begun(circuit, 7)
    assert not circuit.may_pass
    assert worked(circuit).phase is Phase.CLOSED


def test_a_service_that_answers_pings_and_fails_work_is_tried_ever_more_rarely():
    now, delays, circuit = 0.0, [], failing_at_work()
    for number in range(10):
        delays.append(circuit.due_at - now)
        now = circuit.due_at
        circuit = failed(begun(answered(circuit, now), number), number, now, 0.5, is_away=number % 2 == 0)
        assert circuit.phase is Phase.OPEN
        assert not circuit.seems_well
    assert delays == [1, 2, 4, 8, 16, *[LONGEST_DELAY_S] * 5]
    assert circuit.outage == 1


def test_one_piece_of_work_that_fails_inside_again_and_again_is_not_taken_for_an_outage():
    circuit = Circuit()
    for _ in range(20):
        circuit = broken(circuit, 1)
    assert circuit.phase is Phase.CLOSED


def test_several_that_fail_inside_with_no_success_between_are_an_outage():
    circuit = Circuit()
    for work in range(BROKEN_IN_A_ROW):
        assert circuit.phase is Phase.CLOSED
        circuit = broken(circuit, work)
    assert circuit.phase is Phase.OPEN
    circuit = broken(worked(broken(Circuit(), 1)), 2)
    assert circuit.phase is Phase.CLOSED


def test_a_trial_that_fails_although_the_service_can_read_shows_that_it_is_back():
    """The work is at fault: its attempts count from now on, and others go on."""
    circuit = broken(begun(answered(away(Circuit()), 100.0), 7), 7, 100.0)
    assert circuit.phase is Phase.CLOSED
    assert circuit.broken == {7}
    assert away(begun(answered(away(Circuit()), 100.0), 7), 7, 100.0).phase is Phase.OPEN


def test_a_trial_that_fails_in_an_outage_of_all_work_is_no_proof_of_anything():
    circuit = failing_at_work()
    assert broken(begun(answered(circuit, 100.0), 7), 7, 100.0).phase is Phase.OPEN
    assert not worked(circuit).fails_work


def test_a_trial_that_says_nothing_of_the_service_lets_another_be_tried():
    circuit = begun(answered(away(Circuit()), 100.0), 7)
    assert cancelled(circuit, 8) == circuit
    assert cancelled(circuit, 7).may_pass


def test_without_any_work_signs_of_life_are_enough_after_a_while():
    circuit = answered(away(Circuit()), 100.0)
    assert circuit.seems_well
    assert answered(circuit, 100.0 + UNTRIED_S).phase is Phase.CLOSED


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["admit", "work", "away", "broken", "leave", "answer", "silence"]),
        st.integers(0, 3),
        st.floats(0, 20),
        st.floats(0, 0.99),
    ),
    max_size=80,
)


@given(STEPS)
def test_whatever_happens_half_open_lets_one_through_and_open_none_and_it_never_stays_shut(steps):
    circuit, now = Circuit(), 0.0
    for step, work, passed_s, chance in steps:
        now += passed_s
        before = circuit
        match step:
            case "admit" if circuit.may_pass:
                circuit = begun(circuit, work)
                assert circuit.phase is Phase.CLOSED or not circuit.may_pass
            case "work":
                circuit = worked(circuit)
                assert circuit.phase is Phase.CLOSED
            case "away" | "broken":
                circuit = failed(circuit, work, now, chance, is_away=step == "away")
            case "leave":
                circuit = cancelled(circuit, work)
            case "answer":
                circuit = answered(circuit, now)
            case "silence":
                circuit = silent(circuit, now, chance)
                assert circuit.phase is Phase.OPEN
        if before.phase is Phase.OPEN and circuit.phase is Phase.HALF_OPEN:
            assert now >= before.due_at
        assert circuit.outage >= before.outage
        assert circuit.phase is not Phase.OPEN or circuit.due_at <= now + 1.25 * LONGEST_DELAY_S
    circuit = answered(circuit, now + 1000.0) if circuit.phase is Phase.OPEN else circuit
    assert circuit.phase is not Phase.OPEN


def test_what_outages_cost_is_not_held_against_a_montage():
    tries, limited = Tries(), ReadBackDiffers("stack", "differs")
    for outage in range(1, 20):
        assert tries.delay_in_outage_s(1, outage, 1.0, 0.5) > 0
    for _ in range(LIMITED_ATTEMPTS - 1):
        assert tries.delay_s(1, limited, 50, 0.5) is not None
    assert tries.delay_s(1, limited, 51, 0.5) is None


def test_faults_that_pass_do_not_use_up_the_attempts_of_others():
    tries = Tries()
    for attempt in range(1, 30):
        assert tries.delay_s(1, RenderUnavailable("render", "away"), attempt, 0.5) is not None
    assert tries.delay_s(1, ReadBackDiffers("stack", "differs"), 30, 0.5) == 1.0


@pytest.mark.parametrize("pause_s", [0.5, 30.0])
def test_in_an_outage_the_next_that_is_tried_is_another_one(pause_s):
    assert Tries().delay_in_outage_s(1, 1, pause_s, 0.0) > pause_s


def test_who_fails_in_one_outage_after_the_other_waits_long_and_is_not_called_at_their_end():
    tries = Tries()
    for outage in range(1, LIMITED_ATTEMPTS + 1):
        tries.delay_in_outage_s(1, outage, 1.0, 0.5)
        assert tries.after_outage() == (1,)
    assert tries.delay_in_outage_s(1, LIMITED_ATTEMPTS + 1, 1.0, 0.5) == LONGEST_RETRY_S
    assert tries.after_outage() == ()


def test_pauses_between_probes_vary_by_a_quarter():
    assert [opening_delay_s(2, chance) for chance in (0.0, 0.5, 1.0)] == [1.5, 2.0, 2.5]


def test_work_sent_while_the_service_is_well_is_no_trial():
    assert begun(Circuit(), 1) == Circuit()


def test_while_one_piece_of_work_is_tried_another_that_fails_inside_decides_nothing():
    circuit = begun(answered(away(Circuit()), 100.0), 7)
    assert broken(circuit, 8, 100.0).phase is Phase.HALF_OPEN
    assert broken(circuit, 8, 100.0).trial == 7


def test_work_that_still_fails_while_the_circuit_is_open_does_not_put_off_the_next_probe():
    circuit = away(Circuit())
    assert away(circuit, 2, 0.5) == circuit


def test_a_service_that_failed_at_work_does_not_seem_well_though_it_answers_pings():
    circuit = failing_at_work()
    assert not answered(circuit, circuit.due_at).seems_well
    tried = away(begun(answered(away(Circuit()), 100.0), 7), 7, 100.0)
    assert not answered(tried, tried.due_at).seems_well
    again = silent(tried, tried.due_at, 0.5)
    assert not answered(again, again.due_at).seems_well
    assert answered(away(Circuit()), 100.0).seems_well


def test_signs_of_life_are_not_enough_before_that_or_while_work_is_tried():
    circuit = answered(away(Circuit()), 100.0)
    assert answered(circuit, 100.0 + UNTRIED_S - 0.1) == circuit
    tried = begun(circuit, 7)
    assert answered(tried, 100.0 + UNTRIED_S) == tried


def test_an_answered_ping_does_not_excuse_work_that_failed_inside():
    circuit = broken(Circuit(), 1)
    assert answered(circuit, 100.0) == circuit


def test_a_montage_that_made_progress_has_its_attempts_anew_and_waits_for_no_outage():
    tries, limited = Tries(), ReadBackDiffers("stack", "differs")
    for _ in range(LIMITED_ATTEMPTS):
        given_up = tries.delay_s(1, limited, 1, 0.5) is None
    tries.delay_in_outage_s(1, 1, 1.0, 0.5)
    tries.delay_in_outage_s(2, 1, 1.0, 0.5)
    assert given_up
    tries.forget(1)
    assert tries.after_outage() == (2,)
    assert tries.delay_s(1, limited, 1, 0.5) == 1.0
    tries.forget(3)  # never tried


def test_an_outage_counts_once_for_a_montage_however_often_it_fails_in_it():
    tries = Tries()
    delays = [
        tries.delay_in_outage_s(1, 1, 10.0, chance) for chance in (0.0, 0.5, 1.0) for _ in range(LIMITED_ATTEMPTS)
    ]
    assert delays == [15.75] * LIMITED_ATTEMPTS + [21.0] * LIMITED_ATTEMPTS + [26.25] * LIMITED_ATTEMPTS
    assert tries.after_outage() == (1,)
