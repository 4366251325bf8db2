"""The arithmetic of docs/scale.md, with figures that are easy to carry through by hand."""

import pytest

from benchmarks import _scale

GROWTH = {
    "rows": [
        # Twice and a half the items take twice and a half the time: the power is 1.
        {"stage": "build, load, query", "items": 100_000, "p50 ms": 1.0},
        {"stage": "build, load, query", "items": 250_000, "p50 ms": 2.5},
        {"stage": "build, load, query", "items": 1_000_000, "memory B/item": 1024, "disk B/item": 512},
    ],
    "build": [{"items": 1_000_000, "build": {"seconds": 36.0}}],
    "tail": [{"leaves": 4, "p50 ms": 1.25}],
}
EMBED = {
    "rows": [
        {"run": "job, 1 worker of one thread", "images": "photos", "images/s": 100.0},
        {"run": "a plain loop", "images": "photos", "images/s": 7.0},
    ]
}
PIPELINE = {"rows": [{"component": "ImageExampleGen", "images/s": 1000.0}]}


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_making_a_release() -> None:
    lines = [cells(line) for line in _scale.making(GROWTH, EMBED, PIPELINE)[2:]]
    assert lines == [
        # A billion at 1,000 a second are 10**6 seconds, 277.8 hours: 34.7 of a machine of 8 cores, at 0.40 dollars.
        ["ingest, digits", "1,000 images/s, one worker", "278", "2.78", "13.9"],
        ["embed, photos", "100 images/s, one worker of one thread", "2,778", "27.8", "139"],
        ["embed 1% of the photos", "the same", "27.8", "0.278", "1.39"],
        # 36 us an item: 10 hours, of two cores.
        ["build", "36 us an item on 2 cores", "20", "0.2", "1"],
    ]


def test_serving_it() -> None:
    text, _, _, _, *rows = _scale.serving(GROWTH)
    # 10**12 x 1.024 bytes are 954 GiB: in 48 of 64 GiB each 20 machines, and another for each replica. 40 machines of
    # 730 hours at 0.40 are 11,680 dollars. On disk it is half as much, three times, at 0.02.
    assert "1,024 B an item" in text and " 954 GiB in all; with 2 replicas of each leaf 40 machines" in text
    assert "11,680 dollars a month" in text and "3 releases kept are 1,431 GiB, 28.6 dollars" in text
    assert "grows with the 1.00th power" in text
    # 4,000 shards of 2.5 ms are 10 core seconds; 40 machines have 240 cores to use. With a power of 1 larger shards
    # change nothing.
    assert [cells(row) for row in rows] == [
        ["250,000", "4,000", "0.238", "2.5", "10", "24"],
        ["1,000,000 (extrapolated)", "1,000", "0.954", "10", "10", "24"],
        ["10,000,000 (extrapolated)", "100", "9.54", "100", "10", "24"],
    ]


def test_the_simulated_tail_is_written_as_it_is() -> None:
    assert _scale.tail(GROWTH) == ["| leaves | p50 ms |", "| --- | --- |", "| 4 | 1.25 |"]


@pytest.mark.parametrize(
    ("value", "said"), [(1234567, "1,234,567"), (1234.6, "1,235"), (99.94, "99.9"), (0.012345, "0.0123"), ("x", "x")]
)
def test_figures_have_three_digits(value: object, said: str) -> None:
    assert _scale.number(value) == said


def test_a_goal_that_is_missed_says_so() -> None:
    goal = {"name": "rate", "value": 0.5, "goal": 0.8, "met": False}
    assert _scale.goals({"goals": [goal]}) == ["- rate: 0.5, goal 0.8 (**not met**)"]
    assert _scale.goals({"goals": [{**goal, "met": True}]}) == ["- rate: 0.5, goal 0.8"]


def test_only_what_lies_between_the_marks_is_written() -> None:
    text = "a\n<!-- tail: python -m benchmarks._scale --write -->\nold\n<!-- end -->\nb\n"
    changed = _scale.replaced(text, "tail", ["new", "lines"])
    assert changed == text.replace("old", "new\nlines")
    for broken in ("a\n", text + text):
        with pytest.raises(SystemExit, match="one place for 'tail'"):
            _scale.replaced(broken, "tail", [])
