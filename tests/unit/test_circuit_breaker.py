"""The circuit breaker and the retry counts: examples, and random sequences of events by hypothesis."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.pipeline.gates.circuit_breaker import (
    BROKEN_LIMIT,
    IDLE_CLOSE_S,
    MAX_DELAY_S,
    Circuit,
    Phase,
    after_begin,
    after_cancel,
    after_failed_probe,
    after_failure,
    after_good_probe,
    after_success,
    make_probe_due,
    opening_delay_s,
)
from daemon.pipeline.order.retry import LIMITED_ATTEMPTS, Tries
from daemon.pipeline.order.retry import MAX_DELAY_S as MAX_RETRY_S
from handlers.errors import ReadBackDiffers, RenderUnavailable


def unavailable(circuit: Circuit, work: int = 1, now: float = 0.0) -> Circuit:
    return after_failure(circuit, work, now, 0.5, is_unavailable=True)


def broken(circuit: Circuit, work: int, now: float = 0.0) -> Circuit:
    return after_failure(circuit, work, now, 0.5, is_unavailable=False)


def opened_by_failed_work() -> Circuit:
    circuit = Circuit()
    for work in range(BROKEN_LIMIT):
        circuit = broken(circuit, work)
    return circuit


def test_an_unavailable_service_gets_one_trial_after_it_answered_a_probe():
    circuit = unavailable(Circuit())
    assert circuit.phase is Phase.OPEN
    assert not circuit.may_send
    assert after_good_probe(circuit, circuit.due_at - 0.1) == circuit
    circuit = after_good_probe(circuit, circuit.due_at)
    assert circuit.phase is Phase.HALF_OPEN
    assert circuit.may_send
    circuit = after_begin(circuit, 7)
    assert not circuit.may_send
    assert after_success(circuit).phase is Phase.CLOSED


def test_a_service_that_answers_probes_and_fails_work_is_tried_with_growing_delay():
    now, delays, circuit = 0.0, [], opened_by_failed_work()
    for number in range(10):
        delays.append(circuit.due_at - now)
        now = circuit.due_at
        circuit = after_failure(
            after_begin(after_good_probe(circuit, now), number), number, now, 0.5, is_unavailable=number % 2 == 0
        )
        assert circuit.phase is Phase.OPEN
        assert not circuit.is_available
    assert delays == [1, 2, 4, 8, 16, *[MAX_DELAY_S] * 5]
    assert circuit.outage == 1


def test_one_piece_of_work_that_fails_repeatedly_is_no_outage():
    circuit = Circuit()
    for _ in range(20):
        circuit = broken(circuit, 1)
    assert circuit.phase is Phase.CLOSED


def test_several_failed_pieces_of_work_without_a_success_are_an_outage():
    circuit = Circuit()
    for work in range(BROKEN_LIMIT):
        assert circuit.phase is Phase.CLOSED
        circuit = broken(circuit, work)
    assert circuit.phase is Phase.OPEN
    circuit = broken(after_success(broken(Circuit(), 1)), 2)
    assert circuit.phase is Phase.CLOSED


def test_a_failed_trial_closes_the_circuit_if_the_service_can_read():
    """The work is the cause of such a failure. It counts as failed, and other work continues."""
    circuit = broken(after_begin(after_good_probe(unavailable(Circuit()), 100.0), 7), 7, 100.0)
    assert circuit.phase is Phase.CLOSED
    assert circuit.broken == {7}
    assert unavailable(after_begin(after_good_probe(unavailable(Circuit()), 100.0), 7), 7, 100.0).phase is Phase.OPEN


def test_a_failed_trial_reopens_the_circuit_if_failed_work_began_the_outage():
    circuit = opened_by_failed_work()
    assert broken(after_begin(after_good_probe(circuit, 100.0), 7), 7, 100.0).phase is Phase.OPEN
    assert not after_success(circuit).fails_work


def test_after_a_cancelled_trial_another_trial_may_be_sent():
    circuit = after_begin(after_good_probe(unavailable(Circuit()), 100.0), 7)
    assert after_cancel(circuit, 8) == circuit
    assert after_cancel(circuit, 7).may_send


def test_without_work_an_answered_probe_closes_the_circuit_after_a_minute():
    circuit = after_good_probe(unavailable(Circuit()), 100.0)
    assert circuit.is_available
    assert after_good_probe(circuit, 100.0 + IDLE_CLOSE_S).phase is Phase.CLOSED


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["send", "succeed", "unavailable", "broken", "cancel", "answered probe", "failed probe"]),
        st.integers(0, 3),
        st.floats(0, 20),
        st.floats(0, 0.99),
    ),
    max_size=80,
)


@given(STEPS)
def test_any_sequence_of_events_respects_the_phases_and_never_leaves_the_circuit_open(steps):
    circuit, now = Circuit(), 0.0
    for step, work, passed_s, chance in steps:
        now += passed_s
        before = circuit
        match step:
            case "send" if circuit.may_send:
                circuit = after_begin(circuit, work)
                assert circuit.phase is Phase.CLOSED or not circuit.may_send
            case "succeed":
                circuit = after_success(circuit)
                assert circuit.phase is Phase.CLOSED
            case "unavailable" | "broken":
                circuit = after_failure(circuit, work, now, chance, is_unavailable=step == "unavailable")
            case "cancel":
                circuit = after_cancel(circuit, work)
            case "answered probe":
                circuit = after_good_probe(circuit, now)
            case "failed probe":
                circuit = after_failed_probe(circuit, now, chance)
                assert circuit.phase is Phase.OPEN
        if before.phase is Phase.OPEN and circuit.phase is Phase.HALF_OPEN:
            assert now >= before.due_at
        assert circuit.outage >= before.outage
        assert circuit.phase is not Phase.OPEN or circuit.due_at <= now + 1.25 * MAX_DELAY_S
    circuit = after_good_probe(circuit, now + 1000.0) if circuit.phase is Phase.OPEN else circuit
    assert circuit.phase is not Phase.OPEN


def test_attempts_that_failed_because_of_an_outage_do_not_count():
    tries, limited = Tries(), ReadBackDiffers("stack", "differs")
    for outage in range(1, 20):
        assert tries.delay_in_outage_s(1, outage, 1.0, 0.5) > 0
    for _ in range(LIMITED_ATTEMPTS - 1):
        assert tries.delay_s(1, limited, 50, 0.5) is not None
    assert tries.delay_s(1, limited, 51, 0.5) is None


def test_faults_that_pass_with_time_do_not_use_up_limited_attempts():
    tries = Tries()
    for attempt in range(1, 30):
        assert tries.delay_s(1, RenderUnavailable("render", "refused"), attempt, 0.5) is not None
    assert tries.delay_s(1, ReadBackDiffers("stack", "differs"), 30, 0.5) == 1.0


@pytest.mark.parametrize("pause_s", [0.5, 30.0])
def test_in_an_outage_a_montage_waits_longer_than_until_the_next_probe(pause_s):
    assert Tries().delay_in_outage_s(1, 1, pause_s, 0.0) > pause_s


def test_a_montage_that_fails_in_every_outage_gets_the_longest_delay():
    tries = Tries()
    for outage in range(1, LIMITED_ATTEMPTS + 1):
        tries.delay_in_outage_s(1, outage, 1.0, 0.5)
        assert tries.after_outage() == (1,)
    assert tries.delay_in_outage_s(1, LIMITED_ATTEMPTS + 1, 1.0, 0.5) == MAX_RETRY_S
    assert tries.after_outage() == ()


def test_pauses_between_probes_vary_by_a_quarter():
    assert [opening_delay_s(2, chance) for chance in (0.0, 0.5, 1.0)] == [1.5, 2.0, 2.5]


def test_work_sent_through_a_closed_circuit_is_no_trial():
    assert after_begin(Circuit(), 1) == Circuit()


def test_only_the_trial_itself_decides_a_half_open_circuit():
    circuit = after_begin(after_good_probe(unavailable(Circuit()), 100.0), 7)
    assert broken(circuit, 8, 100.0).phase is Phase.HALF_OPEN
    assert broken(circuit, 8, 100.0).trial == 7


def test_work_that_fails_while_the_circuit_is_open_does_not_delay_the_next_probe():
    circuit = unavailable(Circuit())
    assert unavailable(circuit, 2, 0.5) == circuit


def test_a_service_that_failed_a_trial_is_unavailable_although_it_answers_probes():
    circuit = opened_by_failed_work()
    assert not after_good_probe(circuit, circuit.due_at).is_available
    tried = unavailable(after_begin(after_good_probe(unavailable(Circuit()), 100.0), 7), 7, 100.0)
    assert not after_good_probe(tried, tried.due_at).is_available
    probed = after_failed_probe(tried, tried.due_at, 0.5)
    assert not after_good_probe(probed, probed.due_at).is_available
    assert after_good_probe(unavailable(Circuit()), 100.0).is_available


def test_an_answered_probe_does_not_close_the_circuit_early_or_during_a_trial():
    circuit = after_good_probe(unavailable(Circuit()), 100.0)
    assert after_good_probe(circuit, 100.0 + IDLE_CLOSE_S - 0.1) == circuit
    tried = after_begin(circuit, 7)
    assert after_good_probe(tried, 100.0 + IDLE_CLOSE_S) == tried


def test_an_answered_probe_does_not_reset_the_count_of_failed_work():
    circuit = broken(Circuit(), 1)
    assert after_good_probe(circuit, 100.0) == circuit


def test_progress_resets_the_attempts_of_a_montage():
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


def test_an_outage_counts_once_for_a_montage():
    tries = Tries()
    delays = [
        tries.delay_in_outage_s(1, 1, 10.0, chance) for chance in (0.0, 0.5, 1.0) for _ in range(LIMITED_ATTEMPTS)
    ]
    assert delays == [15.75] * LIMITED_ATTEMPTS + [21.0] * LIMITED_ATTEMPTS + [26.25] * LIMITED_ATTEMPTS
    assert tries.after_outage() == (1,)


def test_a_refused_login_is_probed_rarely_and_its_acceptance_needs_no_trial() -> None:
    refused = after_failure(Circuit(), 1, 100.0, 0.5, is_unavailable=True, is_refused=True)
    assert (refused.phase, refused.due_at) == (Phase.OPEN, 400.0)
    assert after_good_probe(refused, 200.0) is refused
    due = make_probe_due(refused, 200.0)
    assert after_good_probe(due, 200.0).phase is Phase.CLOSED
    refused_again = after_failed_probe(due, 200.0, 0.5, is_refused=True)
    assert (refused_again.phase, refused_again.due_at) == (Phase.OPEN, 500.0)
    unanswered = after_failed_probe(due, 200.0, 0.5)
    assert unanswered.due_at == 202.0
    assert after_good_probe(unanswered, 202.0).phase is Phase.HALF_OPEN


def test_a_circuit_that_forbidden_work_opened_needs_a_trial() -> None:
    circuit = Circuit()
    for work in range(3):
        circuit = after_failure(circuit, work, 100.0, 0.5, is_unavailable=False, is_refused=True)
    assert (circuit.phase, circuit.due_at) == (Phase.OPEN, 400.0)
    assert after_good_probe(circuit, 400.0).phase is Phase.HALF_OPEN
