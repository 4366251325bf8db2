"""Answers put together from items that were serialized before: a message in parts is the parts one after the other.

An item takes longer to serialize than to find, and answers hold the same ones again and again.
"""

import functools
import struct
from collections.abc import Iterable, Sequence

from lookalike.retrieval.v1 import retrieval_pb2

_FIXED64, _LENGTH_DELIMITED, _FIXED32 = 1, 2, 5
_SCORE_BYTES = 4


# A Neighbor in a SearchResponse up to its score, which comes next. Bytes and nothing around them: hundreds of thousands
# may be remembered, and the garbage collector must not look at each again and again.
ItemPart = bytes


def _tag(message: type, field: str, wire_type: int) -> bytes:
    number = message.DESCRIPTOR.fields_by_name[field].number  # type: ignore[attr-defined]
    return bytes([number << 3 | wire_type])


_ITEM = _tag(retrieval_pb2.Neighbor, "item", _LENGTH_DELIMITED)
_SCORE = _tag(retrieval_pb2.Neighbor, "score", _FIXED32)
_NEIGHBORS = _tag(retrieval_pb2.SearchResponse, "neighbors", _LENGTH_DELIMITED)
_RESPONSE = _tag(retrieval_pb2.BatchSearchResult, "response", _LENGTH_DELIMITED)
_ERROR = _tag(retrieval_pb2.BatchSearchResult, "error", _LENGTH_DELIMITED)
_RESULTS = _tag(retrieval_pb2.BatchSearchResponse, "results", _LENGTH_DELIMITED)
_VALUES = _tag(retrieval_pb2.Vector, "values", _LENGTH_DELIMITED)
_TIMINGS = struct.Struct("<BB cd cd cd")
_DECODE = _tag(retrieval_pb2.Timings, "decode_seconds", _FIXED64)
_ENCODE = _tag(retrieval_pb2.Timings, "encode_seconds", _FIXED64)
_SEARCH = _tag(retrieval_pb2.Timings, "search_seconds", _FIXED64)
# Field 4 in both.
_TIMINGS_HEAD = (*_tag(retrieval_pb2.SearchResponse, "timings", _LENGTH_DELIMITED), _TIMINGS.size - 2)


def item(data: bytes) -> ItemPart:
    """Returns the part that holds an Item's bytes."""
    own = _ITEM + _length(data) + data + _SCORE
    return _NEIGHBORS + _varint(len(own) + _SCORE_BYTES) + own


@functools.lru_cache(maxsize=64)
def packed_floats(size: int) -> bytes:
    """Returns what comes before `size` bytes of floats in a Vector that holds some."""
    return _VALUES + _varint(size)


def search_response(items: Sequence[ItemPart], scores: Sequence[float], more: Sequence[bytes], rest: bytes) -> bytes:
    """Returns a SearchResponse.

    more: what else each Neighbor holds, or nothing at all. rest: of the SearchResponse.
    """
    packed = struct.pack(f"<{len(scores)}f", *scores)
    parts: list[bytes] = [rest] * (2 * len(items) + 1)
    parts[:-1:2] = items
    parts[1::2] = [packed[at : at + _SCORE_BYTES] for at in range(0, len(packed), _SCORE_BYTES)]
    for number, extra in enumerate(more):
        if extra:
            own = _own(items[number]) + parts[2 * number + 1] + extra
            parts[2 * number] = _NEIGHBORS + _length(own)
            parts[2 * number + 1] = own
    return b"".join(parts)


def timings(decode: float, encode: float, search: float) -> bytes:
    """Returns the timings of a SearchResponse or a BatchSearchResponse: seconds."""
    return _TIMINGS.pack(*_TIMINGS_HEAD, _DECODE, decode, _ENCODE, encode, _SEARCH, search)


def batch_response(results: Iterable[tuple[bool, bytes]], rest: bytes) -> bytes:
    """Returns a BatchSearchResponse. results: whether it is a SearchResponse, else a Status; and its bytes."""
    parts: list[bytes] = []
    for answered, data in results:
        result = (_RESPONSE if answered else _ERROR) + _length(data)
        parts += (_RESULTS, _varint(len(result) + len(data)), result, data)
    parts.append(rest)
    return b"".join(parts)


def _own(part: ItemPart) -> bytes:
    """Returns the Neighbor's own bytes, without its tag and length."""
    start = len(_NEIGHBORS)
    while part[start] & 0x80:
        start += 1
    return part[start + 1 :]


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
