"""The simulated fan-out, where what must come out is known."""

import numpy as np
import pytest

from benchmarks import _tail


def shares(values: np.ndarray) -> dict[float, float]:
    """Returns how often each value comes."""
    found, counts = np.unique(values, return_counts=True)
    return dict(zip(found.tolist(), (counts / len(values)).tolist(), strict=True))


def test_the_slowest_of_the_leaves_decides() -> None:
    # Of two leaves that take 1 or 2 seconds, both take 1 in a quarter of all cases; of four, in a sixteenth.
    leaf = np.array([1.0, 2.0])
    for leaves, fast in ((1, 1 / 2), (2, 1 / 4), (4, 1 / 16)):
        found = shares(_tail.slowest(leaf, leaves, 40_000, np.random.default_rng(0)))
        assert found == pytest.approx({1.0: fast, 2.0: 1 - fast}, abs=0.01)


def test_a_hedge_takes_what_comes_first() -> None:
    # Half of the calls take 10 seconds. After 2 a second one is sent, of which half take 1: so a quarter is there
    # after 3. The others have 10 from the first call, and not 12.
    found = shares(_tail.slowest(np.array([1.0, 10.0]), 1, 40_000, np.random.default_rng(0), hedge_after=2.0))
    assert found == pytest.approx({1.0: 1 / 2, 3.0: 1 / 4, 10.0: 1 / 4}, abs=0.01)


def test_a_hedge_that_is_never_sent_changes_nothing() -> None:
    leaf = np.array([1.0, 10.0])
    found = shares(_tail.slowest(leaf, 1, 40_000, np.random.default_rng(0), hedge_after=10.0))
    assert found == pytest.approx({1.0: 1 / 2, 10.0: 1 / 2}, abs=0.01)


def test_as_many_are_drawn_as_are_asked_for_however_few_fit_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_tail, "_AT_ONCE", 64)
    for leaves in (1, 10, 100):
        assert _tail.slowest(np.ones(3), leaves, 77, np.random.default_rng(0)).tolist() == [1.0] * 77


def test_rows_are_of_milliseconds_for_each_number_of_leaves() -> None:
    # 19 of 20 calls take 1 ms: the p95, after which a hedge is sent, lies between 1 and 100 ms.
    rows = _tail.simulate(np.array([0.001] * 19 + [0.1]), draws=4000)
    assert [row["leaves"] for row in rows] == list(_tail.LEAVES)
    one, most = rows[0], rows[-1]
    assert (one["p50 ms"], one["p99 ms"]) == pytest.approx((1.0, 100.0))
    # 0.95 ** 256 of all fan-outs meet no slow leaf.
    assert most["p50 ms"] == pytest.approx(100.0)
    assert all(row["hedged p99 ms"] <= row["p99 ms"] for row in rows)
    # A second call is slow in a twentieth of a twentieth.
    assert one["hedged p99 ms"] < 10.0
