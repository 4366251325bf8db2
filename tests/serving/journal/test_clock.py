import threading

import pytest

from serving.journal.clock import MAX_AHEAD_MILLISECONDS, ClockAhead, HybridClock, Stamp, wall_milliseconds


class Wall:
    """A clock on the wall that goes as the test says."""

    def __init__(self, milliseconds: int) -> None:
        self.milliseconds = milliseconds

    def __call__(self) -> int:
        return self.milliseconds


def test_stamps_follow_the_time_of_day() -> None:
    wall = Wall(1000)
    clock = HybridClock("a", wall)
    assert clock.now() == (1000, 0, "a")
    assert clock.now() == (1000, 1, "a")
    wall.milliseconds = 1001
    assert clock.now() == (1001, 0, "a")


def test_stamps_grow_while_the_wall_goes_back() -> None:
    wall = Wall(1000)
    clock = HybridClock("a", wall)
    clock.now()
    wall.milliseconds = 10
    assert clock.now() == (1000, 1, "a")
    assert clock.now() == (1000, 2, "a")


@pytest.mark.parametrize(
    ("seen", "then"),
    [
        (Stamp(900, 7, "b"), Stamp(1000, 1, "a")),  # behind: as if nothing had been seen
        (Stamp(1000, 7, "b"), Stamp(1000, 8, "a")),  # in the same millisecond
        (Stamp(1500, 7, "b"), Stamp(1500, 8, "a")),  # ahead
    ],
)
def test_stamps_are_later_than_what_was_seen(seen: Stamp, then: Stamp) -> None:
    clock = HybridClock("a", Wall(1000))
    clock.now()
    clock.observe(seen)
    assert clock.now() == then


def test_what_is_too_far_ahead_is_not_followed() -> None:
    clock = HybridClock("a", Wall(1000))
    clock.observe(Stamp(1000 + MAX_AHEAD_MILLISECONDS, 0, "b"))
    with pytest.raises(ClockAhead, match=r"writer b is 60\.001 s ahead of ours, at most 60 s are believed"):
        clock.observe(Stamp(1000 + MAX_AHEAD_MILLISECONDS + 1, 0, "b"))
    assert clock.now() == (1000 + MAX_AHEAD_MILLISECONDS, 1, "a")


def test_stamps_are_ordered_by_time_then_writer() -> None:
    stamps = [Stamp(1, 0, "b"), Stamp(1, 1, "a"), Stamp(2, 0, "a"), Stamp(2, 0, "b")]
    assert sorted(reversed(stamps)) == stamps


def test_no_two_threads_get_the_same_stamp() -> None:
    clock = HybridClock("a")
    stamps: list[Stamp] = []

    def work() -> None:
        mine = [clock.now() for _ in range(500)]
        assert mine == sorted(mine)
        stamps.extend(mine)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(stamps)) == 2000
    assert stamps[0].milliseconds <= wall_milliseconds()
