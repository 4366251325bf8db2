import hypothesis
from hypothesis import strategies as st

from serving.encoders.breaker import Breaker, State


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def opened(failures: int = 3, seconds: float = 10.0) -> tuple[Breaker, Clock]:
    clock = Clock()
    breaker = Breaker(failures, seconds, clock)
    for _ in range(failures):
        assert breaker.allow()
        breaker.failed()
    return breaker, clock


def test_opens_after_failures_in_a_row() -> None:
    breaker = Breaker(3, 10)
    for outcome in (breaker.failed, breaker.failed, breaker.succeeded, breaker.failed, breaker.failed):
        assert breaker.allow()
        outcome()
    assert breaker.state is State.CLOSED
    assert breaker.allow()
    breaker.failed()
    assert breaker.state is State.OPEN
    assert not breaker.allow()
    assert (breaker.opened, breaker.refused) == (1, 1)


def test_lets_one_through_after_its_time_and_closes_when_that_succeeds() -> None:
    breaker, clock = opened()
    clock.now = 9.9
    assert not breaker.allow()
    clock.now = 10.0
    assert breaker.state is State.HALF_OPEN
    assert [breaker.allow() for _ in range(3)] == [True, False, False]
    breaker.succeeded()
    assert breaker.state is State.CLOSED
    assert [breaker.allow() for _ in range(3)] == [True] * 3


def test_stays_open_for_as_long_again_when_the_one_fails() -> None:
    breaker, clock = opened()
    clock.now = 12.0
    assert breaker.allow()
    breaker.failed()
    clock.now = 21.9
    assert not breaker.allow()
    clock.now = 22.0
    assert breaker.allow()
    assert breaker.opened == 1, "it was never closed in between"


def test_another_may_try_where_one_was_given_up() -> None:
    breaker, clock = opened()
    clock.now = 10.0
    assert breaker.allow()
    assert not breaker.allow()
    breaker.abandoned()
    assert breaker.allow()


def test_calls_that_began_before_it_opened_change_nothing_but_by_success() -> None:
    breaker, clock = opened()
    clock.now = 5.0
    breaker.failed()
    clock.now = 10.0
    assert breaker.state is State.HALF_OPEN, "a late failure doesn't prolong it"
    clock.now = 5.0
    breaker.succeeded()
    assert breaker.state is State.CLOSED


def test_tries_again_early_when_there_is_hope() -> None:
    breaker, _ = opened()
    breaker.try_again()
    assert breaker.state is State.HALF_OPEN
    healthy = Breaker(3, 10)
    healthy.try_again()
    assert healthy.state is State.CLOSED


@hypothesis.given(
    st.lists(st.tuples(st.sampled_from(["ok", "bad", "gone", "hope"]), st.floats(0, 4)), max_size=60), st.integers(1, 4)
)
def test_whatever_happens_a_success_soon_closes_it(events: list, failures: int) -> None:
    clock = Clock()
    breaker = Breaker(failures, 3.0, clock)
    for event, pause in events:
        clock.now += pause
        if event == "hope":
            breaker.try_again()
        elif breaker.allow():
            {"ok": breaker.succeeded, "bad": breaker.failed, "gone": breaker.abandoned}[event]()
    clock.now += 3.0
    assert breaker.allow(), "nothing is under way, so somebody may try"
    breaker.succeeded()
    assert breaker.state is State.CLOSED
