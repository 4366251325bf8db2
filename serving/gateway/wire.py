"""Answers put together from items that were serialized before: a message in parts is the parts one after the other.

An item takes longer to serialize than to find, and answers hold the same ones again and again.
"""

import struct
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from lookalike.retrieval.v1 import retrieval_pb2

_LENGTH_DELIMITED, _FIXED32 = 2, 5
_SCORE_BYTES = 4


class ItemPart(NamedTuple):
    """A Neighbor in a SearchResponse up to its score, which comes next. start: where the Neighbor's own bytes begin."""

    data: bytes
    start: int


def _tag(message: type, field: str, wire_type: int) -> bytes:
    number = message.DESCRIPTOR.fields_by_name[field].number  # type: ignore[attr-defined]
    return bytes([number << 3 | wire_type])


_ITEM = _tag(retrieval_pb2.Neighbor, "item", _LENGTH_DELIMITED)
_SCORE = _tag(retrieval_pb2.Neighbor, "score", _FIXED32)
_NEIGHBORS = _tag(retrieval_pb2.SearchResponse, "neighbors", _LENGTH_DELIMITED)
_RESPONSE = _tag(retrieval_pb2.BatchSearchResult, "response", _LENGTH_DELIMITED)
_ERROR = _tag(retrieval_pb2.BatchSearchResult, "error", _LENGTH_DELIMITED)
_RESULTS = _tag(retrieval_pb2.BatchSearchResponse, "results", _LENGTH_DELIMITED)


def item(data: bytes) -> ItemPart:
    """Returns the part that holds an Item's bytes."""
    own = _ITEM + _length(data) + data + _SCORE
    head = _NEIGHBORS + _varint(len(own) + _SCORE_BYTES)
    return ItemPart(head + own, len(head))


def search_response(items: Sequence[ItemPart], scores: Sequence[float], more: Sequence[bytes], rest: bytes) -> bytes:
    """Returns a SearchResponse.

    more: what else each Neighbor holds, or nothing at all. rest: of the SearchResponse.
    """
    packed = struct.pack(f"<{len(scores)}f", *scores)
    parts: list[bytes] = []
    for i, (data, start) in enumerate(items):
        score = packed[_SCORE_BYTES * i : _SCORE_BYTES * (i + 1)]
        if more and more[i]:
            own = data[start:] + score + more[i]
            parts += (_NEIGHBORS, _length(own), own)
        else:
            parts += (data, score)
    parts.append(rest)
    return b"".join(parts)


def batch_response(results: Iterable[tuple[bool, bytes]], rest: bytes) -> bytes:
    """Returns a BatchSearchResponse. results: whether it is a SearchResponse, else a Status; and its bytes."""
    parts: list[bytes] = []
    for answered, data in results:
        result = (_RESPONSE if answered else _ERROR) + _length(data)
        parts += (_RESULTS, _varint(len(result) + len(data)), result, data)
    parts.append(rest)
    return b"".join(parts)


def _length(data: bytes) -> bytes:
    return _varint(len(data))


def _varint(value: int) -> bytes:
    if value < 1 << 7:
        return _BYTES[value]
    if value < 1 << 14:
        return bytes((value & 0x7F | 0x80, value >> 7))
    more = bytearray()
    while value >= 1 << 7:
        more.append(value & 0x7F | 0x80)
        value >>= 7
    more.append(value)
    return bytes(more)


_BYTES = [bytes([value]) for value in range(1 << 7)]
