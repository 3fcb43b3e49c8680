"""The schedule and the retry rule."""

from hypothesis import given
from hypothesis import strategies as st

from daemon.montages.states import Step
from daemon.pipeline.order.retry import LIMITED_ATTEMPTS, MAX_DELAY_S, retry_delay_s
from daemon.pipeline.order.schedule import Schedule, Ticket
from handlers.errors import ImageFault, RenderUnavailable, WorkerFault


def ticket(number: int, step: Step = Step.INGEST, watch: str = "temca2") -> Ticket:
    return Ticket(f"_metadata_2017{number:04}", number, step, watch)


def always(*_: object) -> bool:
    return True


def started(tickets: list[Ticket]) -> list[int]:
    return [each.montage_id for each in tickets]


def test_montages_start_in_order_of_acquisition():
    schedule = Schedule({Step.INGEST: 2})
    for number in (3, 1, 2):
        schedule.add(ticket(number))
    assert started(schedule.take(0.0, always, always)) == [1, 2]


def test_a_step_takes_no_more_montages_than_its_limit_until_one_ends():
    schedule = Schedule({Step.INGEST: 1})
    schedule.add(ticket(1))
    schedule.add(ticket(2))
    first = schedule.take(0.0, always, always)
    assert started(first) == [1]
    assert schedule.take(0.0, always, always) == []
    schedule.finish(first[0])
    assert started(schedule.take(0.0, always, always)) == [2]


def test_a_dead_file_server_stalls_only_the_montages_of_its_watch():
    schedule = Schedule({Step.INGEST: 2})
    for number in (1, 2, 3):
        schedule.add(ticket(number))
    assert started(schedule.take(0.0, always, always)) == [1, 2]
    schedule.add(ticket(4, watch="temca3"))
    assert started(schedule.take(0.0, always, always)) == [4]


def test_the_oldest_ticket_of_all_watches_comes_first():
    schedule = Schedule({Step.INGEST: 1})
    schedule.add(ticket(2, watch="a"))
    schedule.add(ticket(1, watch="b"))
    checked: list[int] = []
    schedule.take(0.0, always, lambda each: checked.append(each.montage_id) or True)
    assert checked == [1, 2]


def test_a_delayed_montage_does_not_block_later_ones():
    schedule = Schedule({Step.INGEST: 1})
    schedule.add(ticket(1), not_before=100.0)
    schedule.add(ticket(2))
    assert started(schedule.take(0.0, always, always)) == [2]
    assert schedule.next_time() == 100.0


def test_a_montage_that_may_not_start_yet_stays_in_the_queue():
    schedule = Schedule({Step.INGEST: 2})
    schedule.add(ticket(1))
    schedule.add(ticket(2))
    assert started(schedule.take(0.0, always, lambda each: each.montage_id != 1)) == [2]
    assert started(schedule.take(0.0, always, always)) == [1]


def test_each_step_has_its_own_limit():
    schedule = Schedule({Step.INGEST: 1, Step.APPLY: 1})
    schedule.add(ticket(1))
    schedule.add(ticket(2, Step.APPLY))
    assert sorted(started(schedule.take(0.0, always, always))) == [1, 2]


def test_a_montage_enqueued_again_during_its_step_keeps_the_new_ticket():
    schedule = Schedule({Step.INGEST: 1, Step.MIPMAPS: 1})
    schedule.add(ticket(1))
    taken = schedule.take(0.0, always, always)[0]
    schedule.add(ticket(1, Step.MIPMAPS))
    schedule.finish(taken)
    assert [each.step for each in schedule.take(0.0, always, always)] == [Step.MIPMAPS]


def test_a_closed_step_is_checked_once_and_not_for_each_ticket():
    schedule = Schedule({Step.INGEST: 4, Step.SETTLE: 1})
    for number in range(100):
        schedule.add(ticket(number))
    schedule.add(ticket(100, Step.SETTLE))
    checked: list[Step] = []

    def is_open(step: Step, _: str) -> bool:
        checked.append(step)
        return step is Step.SETTLE

    assert started(schedule.take(0.0, is_open, lambda each: each.step is Step.SETTLE)) == [100]
    assert checked.count(Step.INGEST) == 1


def test_a_half_open_service_admits_one_ticket():
    schedule = Schedule({Step.INGEST: 4})
    for number in range(100):
        schedule.add(ticket(number))
    tried: list[int] = []
    assert started(schedule.take(0.0, lambda *_: not tried, lambda each: tried.append(each.montage_id) or True)) == [0]
    assert tried == [0]


ACTIONS = st.sampled_from(["add", "end delay", "remove", "take", "finish"])


@given(st.lists(st.tuples(ACTIONS, st.integers(1, 6)), max_size=60))
def test_no_montage_runs_twice_at_a_time_and_no_limit_is_exceeded(actions):
    schedule = Schedule({Step.INGEST: 2})
    running: dict[int, Ticket] = {}
    for action, number in actions:
        if action == "add" and number not in running:
            schedule.add(ticket(number), not_before=float(number % 3))
        elif action == "end delay":
            schedule.end_delay(number)
        elif action == "remove" and number not in running:
            schedule.remove(number)
        elif action == "finish" and number in running:
            schedule.finish(running.pop(number))
        elif action == "take":
            for each in schedule.take(float(number), always, always):
                assert each.montage_id not in running
                running[each.montage_id] = each
        assert len(running) <= 2


def test_an_unavailable_service_is_retried_with_growing_delay_and_never_given_up():
    fault = RenderUnavailable("http://render", "refused")
    delays = [retry_delay_s(fault, attempt, 0.5) for attempt in range(1, 40)]
    assert delays[:4] == [1.0, 2.0, 4.0, 8.0]
    assert delays[-1] == MAX_DELAY_S


def test_jitter_spreads_montages_that_failed_together():
    fault = RenderUnavailable("http://render", "refused")
    assert retry_delay_s(fault, 5, 0.0) == 12.0
    assert retry_delay_s(fault, 5, 1.0) == 20.0


def test_an_invalid_image_is_not_retried():
    assert retry_delay_s(ImageFault("tile.tif", "is not an image"), 1, 0.5) is None


def test_a_limited_fault_is_retried_a_few_times():
    fault = WorkerFault("tile.tif", "the worker died")
    assert retry_delay_s(fault, LIMITED_ATTEMPTS - 1, 0.5) is not None
    assert retry_delay_s(fault, LIMITED_ATTEMPTS, 0.5) is None


def test_a_montage_enqueued_again_does_not_count_against_the_limit():
    schedule = Schedule({Step.INGEST: 1})
    schedule.add(ticket(1))
    schedule.take(0.0, always, always)
    schedule.add(ticket(1), not_before=100.0)
    schedule.add(ticket(2))
    assert started(schedule.take(0.0, always, always)) == [2]


def test_only_the_delay_of_a_waiting_montage_can_be_ended():
    schedule = Schedule({Step.INGEST: 1})
    schedule.add(ticket(1), not_before=100.0)
    schedule.end_delay(1)
    (taken,) = schedule.take(0.0, always, always)
    schedule.end_delay(1)
    schedule.end_delay(2)
    assert schedule.is_current(taken)
    assert schedule.take(0.0, always, always) == []


def test_a_removed_montage_never_starts():
    schedule = Schedule({Step.INGEST: 2})
    schedule.add(ticket(1))
    schedule.add(ticket(2), not_before=100.0)
    schedule.remove(1)
    schedule.remove(2)
    schedule.remove(3)  # not in the queue
    assert schedule.next_time() is None
    assert schedule.take(200.0, always, always) == []
    assert len(schedule) == 0


def test_outdated_heap_entries_do_not_block_later_montages():
    schedule = Schedule({Step.INGEST: 2})
    schedule.add(ticket(1))
    schedule.add(ticket(2))
    assert schedule.take(0.0, lambda *_: False, always) == []
    schedule.add(ticket(1), not_before=100.0)
    assert started(schedule.take(0.0, always, always)) == [2]


def test_the_next_time_ignores_removed_montages():
    schedule = Schedule({Step.INGEST: 2})
    schedule.add(ticket(1), not_before=100.0)
    schedule.add(ticket(2), not_before=200.0)
    schedule.remove(1)
    assert schedule.next_time() == 200.0


def test_a_montage_waits_until_it_is_taken_and_is_known_until_its_step_ends():
    schedule = Schedule({Step.INGEST: 1})
    assert not schedule.is_waiting(1)
    schedule.add(ticket(1))
    assert schedule.is_waiting(1)
    (taken,) = schedule.take(0.0, always, always)
    assert not schedule.is_waiting(1)
    assert 1 in schedule
    schedule.finish(taken)
    assert 1 not in schedule
