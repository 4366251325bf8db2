import numpy as np
import pytest

from components.embedding.cache import EmbeddingsCache
from components.embedding.encoding import join_misses
from components.embedding.flow import ContentCounts, EmbedOptions, PartContents
from components.embedding.lookup import LookUp, by_prefix, distinct
from serving.storage import open_store

DIMENSION = 3
DIGEST = "e" * 64


def keys(*numbers: int) -> np.ndarray:
    return np.asarray([[number] * 32 for number in numbers], np.uint8)


def contents(part: int, *numbers: int) -> PartContents:
    """The contents of a part."""
    return PartContents(part, keys(*numbers), np.arange(len(numbers)))


def look_up(root, *some: PartContents):
    """Returns {(part, row): vector} of what is known, {(owner, record): (key, places)} of the rest, and counts."""
    options = EmbedOptions("encoder", DIGEST, DIMENSION, "out", root, 8, "in")
    known, missing, counts = {}, {}, []
    for found in LookUp(options).process(("", some)):
        tag, value = getattr(found, "tag", None), getattr(found, "value", found)
        if tag is None:
            part, placed = value
            known |= {(part, row): vector.tolist() for row, vector in zip(placed.rows, placed.vectors, strict=True)}
        elif tag == "counts":
            counts.append(value)
        else:
            owner, misses = value
            for number, (key, record) in enumerate(zip(misses.keys, misses.records, strict=True)):
                mine = misses.places[misses.places.contents == number]
                places = sorted(zip(mine.parts.tolist(), mine.rows.tolist(), strict=True))
                missing[owner, int(record)] = (int(key[0]), places)
    return known, missing, counts


@pytest.mark.parametrize("order", [1, -1])
def test_the_first_record_of_a_content_owns_it(order):
    some = [contents(0, 7, 5, 7), contents(2, 5, 9, 7), contents(1, 9)][::order]
    known, missing, counts = look_up("", *some)
    assert (known, counts) == ({}, [ContentCounts(cached=0)])
    assert missing == {
        (0, 0): (7, [(0, 0), (0, 2), (2, 2)]),
        (0, 1): (5, [(0, 1), (2, 0)]),
        (1, 0): (9, [(1, 0), (2, 1)]),
    }


def test_what_the_cache_holds_is_placed_and_nobody_owns_it(tmp_path):
    vectors = np.arange(6, dtype=np.float32).reshape(2, DIMENSION)
    EmbeddingsCache(open_store(tmp_path), DIGEST, DIMENSION).add("", keys(5, 200), vectors)
    known, missing, counts = look_up(str(tmp_path), contents(0, 7, 5), contents(1, 5, 8))
    assert known == {(0, 1): [0, 1, 2], (1, 0): [0, 1, 2]}
    assert missing == {(0, 0): (7, [(0, 0)]), (1, 1): (8, [(1, 1)])}
    assert counts == [ContentCounts(cached=1)]


def test_all_may_be_known_or_nothing_there(tmp_path):
    EmbeddingsCache(open_store(tmp_path), DIGEST, DIMENSION).add("", keys(5), np.ones((1, DIMENSION), np.float32))
    assert look_up(str(tmp_path), contents(0, 5))[:2] == ({(0, 0): [1, 1, 1]}, {})
    assert look_up(str(tmp_path), contents(0))[:2] == ({}, {})


def test_keys_are_told_apart_by_any_byte():
    some = np.zeros((4, 32), np.uint8)
    some[1, 31], some[2, 0] = 1, 255
    order, numbers, firsts = distinct(some, np.zeros(4, int), np.arange(4))
    assert (order.tolist(), numbers.tolist(), firsts.tolist()) == ([0, 3, 1, 2], [0, 0, 1, 2], [0, 2, 3])


@pytest.mark.parametrize(("digits", "expected"), [(0, {""}), (1, {"0", "f"}), (3, {"000", "00f", "ff0"})])
def test_prefixes_are_hex_digits(digits, expected):
    some = np.zeros((3, 32), np.uint8)
    some[1, 1], some[2, 0] = 0xF0, 0xFF
    found = dict(by_prefix(some, digits))
    assert set(found) == expected
    for prefix, rows in found.items():
        assert all(some[row].tobytes().hex().startswith(prefix) for row in rows)
    assert sorted(np.concatenate(list(found.values())).tolist()) == [0, 1, 2]


def test_misses_of_several_prefixes_come_in_the_order_of_their_records():
    missing = []
    for some in ([contents(0, 7, 5, 7)], [contents(0, 3, 9)]):
        options = EmbedOptions("encoder", DIGEST, DIMENSION, "out", "", 8, "in")
        found = [each.value for each in LookUp(options).process(("", some)) if getattr(each, "tag", "") == "misses"]
        missing += [misses for _, misses in found]
    joined = join_misses(missing)
    assert joined.records.tolist() == sorted(joined.records.tolist())
    by_key = {
        int(key[0]): sorted(joined.places.rows[joined.places.contents == number].tolist())
        for number, key in enumerate(joined.keys)
    }
    assert by_key == {7: [0, 2], 5: [1], 3: [0], 9: [1]}
    assert len(join_misses([]).records) == 0
