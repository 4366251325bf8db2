"""The choice among measured points: pure functions over made-up figures."""

import dataclasses

import pytest

from serving.index import IndexParameters, Point, choose, frontier


def point(recall: float, speed: float, memory: float = 100.0, **parameters) -> Point:
    return Point(IndexParameters("tree", **{"leaves": 100, **parameters}), recall, speed, memory, 1.0)


def test_the_fastest_of_enough_recall_is_chosen() -> None:
    slow, enough, fast = point(0.99, 100), point(0.95, 200), point(0.949, 1000)
    assert choose([slow, fast, enough], 0.95) is enough
    assert choose([slow, fast, enough], 0.96) is slow


def test_of_equally_fast_ones_the_simplest_is_chosen() -> None:
    plain = point(0.95, 96, leaves_to_search=9)
    hashed = point(0.99, 100, scoring="hash")
    spilt = point(0.99, 99, spill=True)
    assert choose([hashed, spilt, plain], 0.95) is plain
    assert choose([spilt, hashed], 0.95) is spilt
    # By more than the noise of a measurement, speed counts.
    assert choose([dataclasses.replace(plain, queries_per_second=94.0), hashed], 0.95) is hashed
    fewer = point(0.951, 97, leaves_to_search=8)
    assert choose([plain, fewer], 0.95) is fewer


def test_where_no_recall_is_enough_the_highest_is_chosen() -> None:
    high, low = point(0.9, 10), point(0.8, 1000)
    assert choose([low, high], 0.95) is high


def test_memory_is_a_limit() -> None:
    large, small = point(0.95, 100, memory=264.0), point(0.95, 50, memory=24.0, scoring="hash")
    assert choose([large, small], 0.95) is large
    assert choose([large, small], 0.95, bytes_per_item=100) is small
    with pytest.raises(ValueError, match="at least 24 bytes per item, 20 are allowed"):
        choose([large, small], 0.95, bytes_per_item=20)


def test_the_frontier_is_what_nothing_beats() -> None:
    good, fast, small = point(0.99, 10), point(0.9, 100), point(0.9, 20, memory=10.0)
    beaten = [point(0.9, 90), point(0.98, 10), point(0.9, 20, memory=200.0), point(0.85, 100)]
    found = frontier([*beaten, fast, good, small])
    assert sorted(found, key=id) == sorted([small, fast, good], key=id)
    assert [p.recall for p in found] == sorted(p.recall for p in found)
    assert frontier([good, beaten[1]], chosen=beaten[1]) == [beaten[1], good]
    assert frontier([]) == []


def test_a_point_is_a_json_value() -> None:
    made = point(0.9, 100.0, spill=True)
    assert Point.from_dict(made.to_dict()) == made


@pytest.mark.parametrize(("name", "value"), [("recall", 1.1), ("recall", float("nan")), ("build_seconds", -1.0)])
def test_what_nobody_can_have_measured_is_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name):
        dataclasses.replace(point(0.9, 1), **{name: value})
