import hashlib
import json

import numpy as np
import pytest

from serving.journal.clock import Stamp
from serving.journal.entry import Entry, Tombstone, Upsert
from serving.journal.segment import SegmentDamaged, from_bytes, to_bytes
from tests.serving.journal.changes import delete, upsert

WRITER = "a" * 32
ENTRIES = [
    Entry(Stamp(5, 0, WRITER), upsert("one.png", 1)),
    Entry(Stamp(5, 1, WRITER), delete("two.png", purge=True)),
    Entry(Stamp(6, 0, WRITER), upsert("ünïcödé/三.png", 3, embedding=None, encoder_digest="", attributes={})),
    Entry(Stamp(7, 0, WRITER), delete("four.png")),
]


def sealed(body: bytes) -> bytes:
    """Returns a segment of this body, whatever it says."""
    return body + hashlib.sha256(body).hexdigest().encode()


def test_what_was_written_is_read() -> None:
    read = from_bytes(to_bytes(ENTRIES))
    assert read == ENTRIES
    first = read[0].change
    assert isinstance(first, Upsert)
    assert first.embedding is not None
    assert first.embedding.dtype == np.float32
    assert first.embedding.tolist() == [1, 1, 1, 1]
    assert [type(value) for value in first.attributes.values()] == [bool, float, str, int]


def test_the_same_entries_are_the_same_bytes() -> None:
    assert to_bytes(ENTRIES) == to_bytes(from_bytes(to_bytes(ENTRIES)))


def test_a_group_may_be_empty() -> None:
    assert from_bytes(to_bytes([])) == []


def test_every_flipped_byte_is_found() -> None:
    good = to_bytes(ENTRIES)
    for place in range(len(good)):
        bad = bytearray(good)
        bad[place] ^= 1
        with pytest.raises(SegmentDamaged):
            from_bytes(bytes(bad))


def test_every_torn_file_is_found() -> None:
    good = to_bytes(ENTRIES)
    for size in range(len(good)):
        with pytest.raises(SegmentDamaged):
            from_bytes(good[:size])


@pytest.mark.parametrize(
    "header",
    [
        b"not json",
        b"[]",
        b'{"entries": [{"stamp": [1, 2], "kind": "tombstone", "item_id": "x", "purge": false}]}',
        b'{"entries": [{"stamp": [1, 2, "w"], "kind": "rename", "item_id": "x"}]}',
        b'{"entries": [{"stamp": [1, 2, "w"], "kind": "tombstone", "item_id": "", "purge": false}]}',
        b"[" * 100_000,
    ],
)
def test_a_header_that_can_not_be_is_found(header: bytes) -> None:
    with pytest.raises(SegmentDamaged, match="its header says what can't be"):
        from_bytes(sealed(b"lookalike journal segment 1\n" + header + b"\n"))


@pytest.mark.parametrize("place", [[-1, 5], [0, 10**9], [5, -1]])
def test_a_blob_that_lies_elsewhere_is_found(place: list[int]) -> None:
    magic, header, blobs = to_bytes(ENTRIES[:1])[:-64].split(b"\n", 2)
    value = json.loads(header)
    value["entries"][0]["image"] = place
    with pytest.raises(SegmentDamaged, match="a blob must lie in"):
        from_bytes(sealed(b"\n".join([magic, json.dumps(value).encode(), blobs])))


def test_an_image_that_is_another_is_not_written() -> None:
    wrong = upsert("one.png", 1, sha256="0" * 64)
    with pytest.raises(ValueError, match=r"'one\.png' has another sha256"):
        to_bytes([Entry(Stamp(1, 0, WRITER), wrong)])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image": b""}, "must not be empty"),
        ({"sha256": "abc"}, "must be 64 hex digits"),
        ({"width": 0}, "width of 'x' must be at least 1, got 0"),
        ({"attributes": {"a": float("nan")}}, "attribute 'a' of 'x' must be text"),
        ({"attributes": {"a": 2**63}}, "attribute 'a' of 'x' must be text"),
        ({"attributes": {"a": None}}, "attribute 'a' of 'x' must be text"),
        ({"embedding": None}, "both an embedding and an encoder digest"),
        ({"embedding": np.zeros(3)}, r"must be float32 \[D\], got float64 \[3\]"),
    ],
)
def test_wrong_upserts(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        upsert("x", **fields)


def test_no_item_is_nameless() -> None:
    with pytest.raises(ValueError, match="item_id must not be empty"):
        Tombstone("")
