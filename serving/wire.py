"""Answers put together from items that were serialized before: a message in parts is the parts one after the other.

An item takes longer to serialize than to find, and answers hold the same ones again and again.
"""

import struct
from collections.abc import Iterable

from lookalike.retrieval.v1 import retrieval_pb2

_LENGTH_DELIMITED, _FIXED32 = 2, 5


def _tag(message: type, field: str, wire_type: int) -> bytes:
    number = message.DESCRIPTOR.fields_by_name[field].number  # type: ignore[attr-defined]
    return bytes([number << 3 | wire_type])


_ITEM = _tag(retrieval_pb2.Neighbor, "item", _LENGTH_DELIMITED)
_SCORE = _tag(retrieval_pb2.Neighbor, "score", _FIXED32)
_NEIGHBORS = _tag(retrieval_pb2.SearchResponse, "neighbors", _LENGTH_DELIMITED)
_RESPONSE = _tag(retrieval_pb2.BatchSearchResult, "response", _LENGTH_DELIMITED)
_ERROR = _tag(retrieval_pb2.BatchSearchResult, "error", _LENGTH_DELIMITED)
_RESULTS = _tag(retrieval_pb2.BatchSearchResponse, "results", _LENGTH_DELIMITED)
_score = struct.Struct("<f").pack


def item(data: bytes) -> bytes:
    """Returns an Item's bytes as the part of a Neighbor that holds it."""
    return _ITEM + _length(data) + data


def search_response(neighbors: Iterable[tuple[bytes, float, bytes]], rest: bytes) -> bytes:
    """Returns a SearchResponse.

    neighbors: the part that `item` made, the score, and the rest of the Neighbor. rest: of the SearchResponse.
    """
    parts: list[bytes] = []
    for item_part, score, more in neighbors:
        size = len(item_part) + 5 + len(more)
        parts += (_NEIGHBORS, _varint(size), item_part, _SCORE, _score(score), more)
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
