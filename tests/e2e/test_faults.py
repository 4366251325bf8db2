"""Swaps, crashes, overload and flipped bits, as benchmarks/faults.py makes them occur, in short."""

import pathlib
import types

import pytest

from benchmarks._corruption import corrupt
from benchmarks._crashes import crash_under_load
from benchmarks._generations import Generations
from benchmarks._overload import overload
from benchmarks._swaps import swap_under_load

pytestmark = pytest.mark.slow


def pictures(digits: types.SimpleNamespace) -> list[bytes]:
    return list(dict.fromkeys(file.read_bytes() for file in sorted(digits.images.rglob("*.png"))))


@pytest.fixture(scope="module")
def one(digits: types.SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Generations:
    """A serving root with one generation."""
    images = pictures(digits)
    return Generations(tmp_path_factory.mktemp("one"), images[50:], images[:50], 1)


def test_no_answer_is_lost_or_mixed_while_encoder_and_index_are_swapped(digits, tmp_path: pathlib.Path) -> None:
    images = pictures(digits)
    generations = Generations(tmp_path, images[50:], images[:50], 4)
    found = swap_under_load(
        tmp_path / "swaps",
        generations,
        early=1,
        queries=300,
        steady_seconds=1.0,
        least_period=1.0,
        # Far below what it can do: who fails here has not only been slow on a busy machine.
        share_of_peak=0.2,
    )
    assert found.wrong == []
    assert found.failed == {}
    assert found.swaps == 3
    assert found.checked == found.queries > 300


def test_a_mixed_answer_would_be_seen(digits, tmp_path: pathlib.Path) -> None:
    from benchmarks._load import _ANSWER
    from lookalike.retrieval.v1 import retrieval_pb2

    images = pictures(digits)
    generations = Generations(tmp_path, images[50:], images[:50], 2)
    answers = tmp_path / "answers"
    by_release = []
    for generation in generations.all:
        scores, _ = generations._expected(generation, "image")
        rows = (-scores[0]).argsort()[:10]
        neighbors = [
            retrieval_pb2.Neighbor(
                item=retrieval_pb2.Item(item_id=generations._items[row].item_id), score=scores[0][row]
            )
            for row in rows
        ]
        by_release.append(neighbors)
    first, second = generations.all
    for release, version, neighbors in (
        (first.release_id, first.version, by_release[0]),
        (first.release_id, first.version, by_release[1]),
        (first.release_id, second.version, by_release[0]),
        (second.release_id, second.version, by_release[0]),
        (second.release_id, second.version, by_release[1]),
    ):
        data = retrieval_pb2.SearchResponse(
            neighbors=neighbors, release_id=release, encoder_version=version
        ).SerializeToString()
        with answers.open("ab") as handle:
            handle.write(_ANSWER.pack(0, len(data)) + data)
    checked, wrong = generations.wrong_answers(answers, [("image", 0)])
    assert checked == 5
    assert [first.release_id in text for text in wrong] == [True, True, False]


def test_queries_go_on_after_model_server_and_gateway_are_killed(one: Generations, tmp_path: pathlib.Path) -> None:
    found = crash_under_load(tmp_path, one, seconds=4.0, every=2.0, recovery_seconds=25.0)
    assert all(found.kills.values())
    assert found.failed_outside == 0
    assert max(found.recovery.values()) < 25


def test_overload_is_refused_and_passes(one: Generations, tmp_path: pathlib.Path) -> None:
    found = overload(tmp_path, one, "image", seconds=2.0)
    assert found.goodput > 0
    assert not {"INTERNAL", "UNKNOWN"} & set(found.shares)
    assert found.resident_after < 1.5 * found.resident_before


def test_a_flipped_bit_in_any_file_is_refused(one: Generations, tmp_path: pathlib.Path) -> None:
    found = corrupt(tmp_path, one, flips=0)
    assert found.served == []
    assert found.refused == found.flips
    assert found.failed == 0
    assert found.control
