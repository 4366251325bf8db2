"""Which releases answer, and when each is freed."""

import dataclasses
from typing import Any

import pytest

from serving.search import errors
from serving.search.held import Held, Holding


@dataclasses.dataclass
class FakeManifest:
    release_id: str


class Counted:
    """Stands for a release, and for its searcher."""

    def __init__(self, release_id: str) -> None:
        self.manifest = FakeManifest(release_id)
        self.closed = 0

    @property
    def release(self) -> Any:
        return self

    def close(self) -> None:
        self.closed += 1


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_holding_closes_after_its_last_user() -> None:
    release = Counted("r1")
    holding = Holding(release)
    holding.retain().drop()
    assert release.closed == 0
    with holding:
        pass
    assert release.closed == 1


def test_before_the_first_release_nothing_is_held() -> None:
    held = Held(keep_releases=1, keep_seconds=10)
    for release_id in ("", "r1"):
        with pytest.raises(errors.NoRelease):
            held.take(release_id)
    assert held.current is None and held.kept == []


def test_by_default_nothing_is_kept() -> None:
    first, second, held = Counted("r1"), Counted("r2"), Held()
    held.flip(first)
    taken = held.take()
    held.flip(second)
    assert (held.current, first.closed) == (second, 0)
    with pytest.raises(errors.ReleaseNotHeld, match="release 'r1' is not held; r2 is served"):
        held.take("r1")
    taken.drop()
    assert first.closed == 1
    held.flip(None)
    assert second.closed == 1


def test_the_one_before_answers_who_pins_it_for_a_while() -> None:
    clock = Clock()
    held = Held(keep_releases=1, keep_seconds=10, clock=clock)
    first, second = Counted("r1"), Counted("r2")
    held.flip(first)
    held.flip(second)
    with held.take("r1") as holding:
        assert holding.release is first
    with held.take("r2") as holding, held.take("") as served:
        assert holding is served and holding.release is second
    assert (held.kept, first.closed) == ([first], 0)
    clock.now = 9.9
    held.expire()
    taken = held.take("r1")
    clock.now = 10
    held.expire()
    with pytest.raises(errors.ReleaseNotHeld):
        held.take("r1")
    assert first.closed == 0, "a request still uses it"
    taken.drop()
    assert first.closed == 1


def test_no_more_are_kept_than_may_be() -> None:
    held = Held(keep_releases=2, keep_seconds=10, clock=Clock())
    releases = [Counted(f"r{i}") for i in range(5)]
    for release in releases:
        held.flip(release)
    assert held.current is releases[4] and held.kept == [releases[3], releases[2]]
    assert [release.closed for release in releases] == [1, 1, 0, 0, 0]
    held.flip(None)
    assert [release.closed for release in releases] == [1] * 5 and held.kept == []


def test_back_to_one_that_is_kept() -> None:
    clock = Clock()
    held = Held(keep_releases=1, keep_seconds=10, clock=clock)
    first, second = Counted("r1"), Counted("r2")
    held.flip(first)
    held.flip(second)
    assert held.flip_back("r1")
    assert held.current is first and held.kept == [second]
    assert not held.flip_back("r3") and held.current is first
    clock.now = 10
    held.expire()
    assert (first.closed, second.closed) == (0, 1)
    assert not held.flip_back("r2")
