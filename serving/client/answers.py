"""What the client gives: the gateway's answers as plain values."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

from lookalike.retrieval.v1 import retrieval_pb2
from serving import attributes


@dataclasses.dataclass(frozen=True)
class Item:
    """An image of the collection. width, height: pixels. thumbnail: PNG or JPEG, empty unless asked for.

    duplicate_group: the smallest id of the near-duplicates that it belongs to; empty for none.
    """

    item_id: str
    uri: str
    sha256: str
    width: int
    height: int
    attributes: Mapping[str, str | int | float | bool]
    thumbnail: bytes
    duplicate_group: str = ""


@dataclasses.dataclass(frozen=True)
class Neighbor:
    """A result. score: cosine, in [-1, 1].

    collapsed: how many near-duplicates it stands for. collapsed_ids: the best 16 of them.
    """

    item: Item
    score: float
    collapsed: int = 0
    collapsed_ids: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Answer:
    """Neighbours, best first, and who gave them.

    Seconds are the gateway's, by step; 0 in a batch, which has its own. method: how it was searched: `exact`, `index`,
    `exact_filtered` or `index_filtered`. matching: how many items match the filter, None without one. coverage: the
    share of the release's items that were searched, in (0, 1]; 1 from a gateway of before there was this. degraded:
    whether a part of the index is missing from the answer.
    """

    neighbors: tuple[Neighbor, ...]
    release_id: str
    encoder_version: int
    decode_seconds: float
    encode_seconds: float
    search_seconds: float
    method: str
    matching: int | None
    coverage: float = 1.0
    degraded: bool = False


@dataclasses.dataclass(frozen=True)
class Embedding:
    """An image's embedding, D values."""

    values: tuple[float, ...]
    release_id: str
    encoder_version: int


@dataclasses.dataclass(frozen=True)
class Release:
    """A release. created: seconds since the epoch. parent: empty for the first.

    state: `served`, `held` (answers what pins it), `stored` or `refused` (problem says why). current: whether CURRENT
    in the serving root names it.
    """

    release_id: str
    created: float
    parent: str
    encoder_model: str
    encoder_version: int
    encoder_digest: str
    dimension: int
    index_kind: str
    count: int
    state: str
    current: bool
    problem: str


@dataclasses.dataclass(frozen=True)
class Stamp:
    """When a change was made: of two changes of an item the later one counts, by these in this order."""

    milliseconds: int
    count: int
    writer: str


@dataclasses.dataclass(frozen=True)
class Upserted:
    """An upsert that is kept. sha256: of the canonical image, in hex. replaced: whether there was an item of that id.

    release_id: what it is searched beside. reindex_advised: whether so much lies beside it that it is time for another.
    """

    item_id: str
    stamp: Stamp
    sha256: str
    replaced: bool
    release_id: str
    reindex_advised: bool


@dataclasses.dataclass(frozen=True)
class Deleted:
    """A delete that is kept. found: whether there was an item of that id. The others as for Upserted."""

    item_id: str
    stamp: Stamp
    found: bool
    release_id: str
    reindex_advised: bool


def to_item(message: Any) -> Item:
    """Returns the item in an Item message."""
    # Not by __init__, where a frozen dataclass takes three times as long: most of the client's own work is this.
    values = message.attributes
    item = Item.__new__(Item)
    item.__dict__.update(
        item_id=message.item_id,
        uri=message.uri,
        sha256=message.sha256,
        width=message.width,
        height=message.height,
        attributes={name: attributes.from_message(values[name]) for name in values},
        thumbnail=message.thumbnail,
        duplicate_group=message.duplicate_group,
    )
    return item


def to_answer(message: Any) -> Answer:
    """Returns the answer in a SearchResponse."""
    return Answer(
        tuple([_neighbor(neighbor) for neighbor in message.neighbors]),
        message.release_id,
        message.encoder_version,
        message.timings.decode_seconds,
        message.timings.encode_seconds,
        message.timings.search_seconds,
        _name(retrieval_pb2.SearchMethod, message.method),
        message.matching_count if message.HasField("matching_count") else None,
        message.coverage or 1.0,
        message.degraded,
    )


def _neighbor(message: Any) -> Neighbor:
    neighbor = Neighbor.__new__(Neighbor)
    neighbor.__dict__.update(
        item=to_item(message.item),
        score=message.score,
        collapsed=message.collapsed_count,
        collapsed_ids=tuple(message.collapsed_item_ids),
    )
    return neighbor


def to_upserted(item_id: str, message: Any) -> Upserted:
    """Returns what an UpsertResponse says."""
    return Upserted(
        item_id, _stamp(message.stamp), message.sha256, message.replaced, message.release_id, message.reindex_advised
    )


def to_deleted(item_id: str, message: Any) -> Deleted:
    """Returns what a DeleteResponse says."""
    return Deleted(item_id, _stamp(message.stamp), message.found, message.release_id, message.reindex_advised)


def to_release(message: Any) -> Release:
    """Returns the release in a Release message."""
    return Release(
        message.release_id,
        message.created_seconds,
        message.parent,
        message.encoder_model,
        message.encoder_version,
        message.encoder_digest,
        message.dimension,
        message.index_kind,
        message.count,
        _name(retrieval_pb2.ReleaseState, message.state),
        message.current,
        message.problem,
    )


def _stamp(message: Any) -> Stamp:
    return Stamp(message.milliseconds, message.count, message.writer)


@functools.lru_cache(maxsize=64)
def _name(enum: Any, number: int) -> str:
    """Returns `index_filtered` for SEARCH_METHOD_INDEX_FILTERED; the number of a value newer than this client."""
    if number not in enum.values():
        return str(number)
    prefix = enum.Name(0).removesuffix("UNSPECIFIED")
    name: str = enum.Name(number).removeprefix(prefix)
    return name.lower()
