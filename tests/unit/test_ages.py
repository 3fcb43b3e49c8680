"""Ages of montages when the wall clock is set."""

from daemon.journal.ages import Ages


class Clocks:
    """A steady clock, a wall clock that is ahead of it, and the ages that they give."""

    def __init__(self) -> None:
        self.now, self.ahead_s = 1000.0, 1.7e9
        self.ages = Ages(self.wall, lambda: self.now)

    def wall(self) -> float:
        return self.now + self.ahead_s

    def notice(self, montage_id: int) -> tuple[int, float]:
        self.ages.begin(montage_id)
        return montage_id, self.wall()


def test_an_age_is_the_time_that_passed() -> None:
    clocks = Clocks()
    montage = clocks.notice(1)
    clocks.now += 60
    assert clocks.ages.seconds(*montage) == 60


def test_steps_of_the_clock_do_not_change_ages() -> None:
    clocks = Clocks()
    earlier = (4, clocks.wall() - 300)  # noticed by an earlier process
    first = clocks.notice(5)
    clocks.now += 10
    clocks.ahead_s += 7200
    second = clocks.notice(6)
    clocks.now += 10
    clocks.ahead_s -= 10_000
    clocks.now += 10
    third = clocks.notice(7)
    clocks.now += 10
    ages = [round(clocks.ages.seconds(*montage), 3) for montage in (earlier, first, second, third)]
    assert ages == [340, 40, 30, 10]


def test_two_steps_of_the_clock_without_a_montage_between_them_are_added() -> None:
    clocks = Clocks()
    first = clocks.notice(1)
    clocks.ahead_s += 3600
    assert round(clocks.ages.seconds(*first), 3) == 0
    clocks.ahead_s += 3600
    clocks.now += 5
    assert round(clocks.ages.seconds(*first), 3) == 5


def test_a_step_of_more_than_a_second_is_corrected() -> None:
    clocks = Clocks()
    first = clocks.notice(1)
    clocks.now += 10
    clocks.ahead_s += 1.5
    assert round(clocks.ages.seconds(*first), 3) == 10


def test_a_slow_drift_is_not_a_step() -> None:
    clocks = Clocks()
    first = clocks.notice(1)
    for _ in range(100):
        clocks.now += 1
        clocks.ahead_s += 0.01
        clocks.ages.seconds(*first)
    assert round(clocks.ages.seconds(*first), 3) == 101


def test_a_montage_noticed_in_the_future_has_age_zero() -> None:
    clocks = Clocks()
    assert clocks.ages.seconds(1, clocks.wall() + 3600) == 0
