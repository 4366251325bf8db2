"""The port to a leaf: a process that holds some shards of every release. No gRPC, so that the core can import it.

D: the dimension of the release's embeddings.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from serving.index import Embeddings
from serving.release.items import Item
from serving.release.share import Share
from serving.search.changes import Changed, ItemDelete, ItemUpsert
from serving.search.filters import Filter
from serving.search.query import Vector
from serving.search.view import Method


@dataclasses.dataclass(frozen=True)
class LeafQuery:
    """What a leaf is asked. vector: float32 `[D]`, of unit length. k: at least 1; also beyond what clients may ask.

    min_score, filter: see Wanted. exclude: the id of an item to leave out, empty for none. embeddings: whether to
    return those of what is found.
    """

    vector: Vector
    k: int
    min_score: float | None = None
    filter: Filter | None = None
    exclude: str = ""
    embeddings: bool = False

    @property
    def plain(self) -> bool:
        """Whether it asks for no more than the nearest."""
        return self.filter is None and self.min_score is None and not self.exclude and not self.embeddings


class LeafResult(NamedTuple):
    """The best of a leaf's items, ties by item id. items: as the leaf renders them. scores: float32 `[n]`, exact.

    matching: how many of the leaf's items match the filter, None without one. embeddings: float32 `[n, D]`, or None
    where they weren't asked for.
    """

    items: Sequence[Any]
    scores: Embeddings
    method: Method
    matching: int | None = None
    embeddings: Embeddings | None = None


class LeafItem(NamedTuple):
    """An item of a leaf. embedding: float32 `[D]`, of unit length, or None where it wasn't asked for."""

    item: Item
    embedding: Vector | None = None


class LeafStatus(NamedTuple):
    """What a leaf holds. releases: the ids of those that it can be asked for, none where it is about to end.

    brief: whether it searches for the few nearest one query after the other, in less time than a call takes.
    """

    share: Share
    releases: frozenset[str]
    brief: bool = False


class Leaf(Protocol):
    """One process. timeout: seconds, for everything; DeadlineExceeded after it.

    All raise LeafUnavailable where it can't be reached, or is not the leaf that it is taken for; and Overloaded.
    """

    async def search(self, queries: Sequence[LeafQuery], *, release_id: str, timeout: float) -> list[LeafResult]:
        """Returns the result of each query. Raises ReleaseNotHeld."""

    async def items(
        self, item_ids: Sequence[str], *, release_id: str, thumbnails: bool, embeddings: bool, timeout: float
    ) -> list[LeafItem | None]:
        """Returns items, None for an id that it doesn't hold. Raises ReleaseNotHeld."""

    async def upsert(self, items: Sequence[ItemUpsert], *, timeout: float) -> list[Changed | Exception]:
        """Returns the outcome of each item: see Updates.batch_upsert, also for what it raises."""

    async def delete(self, items: Sequence[ItemDelete], *, timeout: float) -> list[Changed | Exception]:
        """As upsert."""

    async def status(self, *, timeout: float) -> LeafStatus:
        """Returns what it holds."""
