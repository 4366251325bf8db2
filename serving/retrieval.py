"""The core: a query in, its nearest neighbours out. Knows neither gRPC nor protobuf.

D: the dimension of the release's embeddings.
"""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from serving import errors
from serving.deadline import Deadline
from serving.encoder import Encoder
from serving.held import Held, Holding
from serving.images import ImageError, ImageLimits, canonicalize
from serving.release.items import Item
from serving.release.manifest import Manifest
from serving.release.reader import Neighbor
from serving.workers import Workers

MAX_K = 1000
Vector = npt.NDArray[np.float32]
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Query:
    """Exactly one of image (a file's bytes), vector (float32 `[D]`, any length but 0) and item_id; k in [1, 1000]."""

    k: int
    image: bytes | None = None
    vector: Vector | None = None
    item_id: str | None = None

    def __post_init__(self) -> None:
        given = [name for name in ("image", "vector", "item_id") if getattr(self, name) is not None]
        if len(given) != 1:
            raise errors.InvalidQuery(
                "query", f"exactly one of image, vector, item_id must be set, got {', '.join(given) or 'none'}."
            )
        if not 1 <= self.k <= MAX_K:
            raise errors.InvalidQuery("k", f"k must be in [1, {MAX_K}], got {self.k}.")
        if self.item_id == "":
            raise errors.InvalidQuery("item_id", "item_id must not be empty.")


@dataclasses.dataclass(frozen=True)
class Timings:
    """Seconds spent, by step; 0 for a step that the query didn't need."""

    decode: float = 0.0
    encode: float = 0.0
    search: float = 0.0


@dataclasses.dataclass(frozen=True)
class SearchResult:
    """An answer, best first, and the pair of encoder and index that gave it."""

    neighbors: list[Neighbor]
    release_id: str
    encoder_version: int
    timings: Timings


@dataclasses.dataclass(frozen=True)
class EncodeResult:
    """An image's embedding, float32 `[D]`, as the encoder gave it."""

    embedding: Vector
    release_id: str
    encoder_version: int


@dataclasses.dataclass(frozen=True)
class ItemResult:
    """An item of the release that is named."""

    item: Item
    release_id: str


class Retrieval:
    """Answers queries. Each takes the current release once, at its start, and finishes on it."""

    def __init__(self, held: Held, encoder: Encoder, workers: Workers, limits: ImageLimits | None = None) -> None:
        self._held = held
        self._encoder = encoder
        self._workers = workers
        self._limits = limits or ImageLimits()

    async def search(self, query: Query, deadline: Deadline) -> SearchResult:
        """Returns the `query.k` items most like the query, itself left out where it is an item."""
        with self._taken() as holding:
            vector, timings = await self._vector_of(query, holding, deadline)
            begun = time.monotonic()
            neighbors = await self._run(
                holding, deadline, lambda: holding.release.search(vector, query.k, exclude=query.item_id)
            )
            manifest = holding.release.manifest
            timings = dataclasses.replace(timings, search=time.monotonic() - begun)
            return SearchResult(neighbors, manifest.release_id, manifest.encoder.version, timings)

    async def encode(self, image: bytes, deadline: Deadline) -> EncodeResult:
        """Returns the embedding of an image file."""
        with self._taken() as holding:
            embedding, _ = await self._embedded(image, holding, deadline)
            manifest = holding.release.manifest
            return EncodeResult(embedding, manifest.release_id, manifest.encoder.version)

    async def get_item(self, item_id: str, deadline: Deadline, *, thumbnail: bool) -> ItemResult:
        """Returns one item; raises ItemNotFound."""
        with self._taken() as holding:
            item = await self._run(holding, deadline, lambda: holding.release.get_item(item_id, thumbnail=thumbnail))
            return ItemResult(_found(item, item_id, holding), holding.release.manifest.release_id)

    def get_release(self) -> Manifest:
        """Returns what is being served."""
        with self._taken() as holding:
            return holding.release.manifest

    @contextlib.contextmanager
    def _taken(self) -> Iterator[Holding]:
        holding = self._held.take()
        try:
            yield holding
        finally:
            holding.drop()

    async def _run(self, holding: Holding, deadline: Deadline, function: Callable[[], T]) -> T:
        # The thread is a user of its own: it may still search when the request has long been given up.
        return await self._workers.run(function, deadline=deadline, finally_=holding.retain().drop)

    async def _vector_of(self, query: Query, holding: Holding, deadline: Deadline) -> tuple[Vector, Timings]:
        """Returns a unit vector `[D]` for any kind of query."""
        if query.image is not None:
            embedding, timings = await self._embedded(query.image, holding, deadline)
            return _unit(embedding, lambda text: errors.EncoderFault(f"encoder's embedding {text}")), timings
        if query.vector is not None:
            _check_dimension(query.vector, holding, lambda text: errors.InvalidQuery("vector", f"vector {text}"))
            return _unit(query.vector, lambda text: errors.InvalidQuery("vector", f"vector {text}")), Timings()
        item_id = query.item_id or ""
        stored = await self._run(holding, deadline, lambda: holding.release.embedding(item_id))
        return _found(stored, item_id, holding), Timings()

    async def _embedded(self, image: bytes, holding: Holding, deadline: Deadline) -> tuple[Vector, Timings]:
        begun = time.monotonic()
        canonical = await self._run(holding, deadline, lambda: self._canonical(image))
        decoded = time.monotonic()
        encoder = holding.release.manifest.encoder
        embeddings = await self._encoder.encode(
            [canonical], model=encoder.model, version=encoder.version, timeout=deadline.left()
        )
        timings = Timings(decode=decoded - begun, encode=time.monotonic() - decoded)
        _check_dimension(embeddings[0], holding, lambda text: errors.EncoderFault(f"encoder's embedding {text}"))
        return embeddings[0], timings

    def _canonical(self, image: bytes) -> bytes:
        try:
            return canonicalize(image, self._limits).data
        except ImageError as error:
            raise errors.InvalidQuery("image", str(error)) from error


def _found(value: T | None, item_id: str, holding: Holding) -> T:
    if value is None:
        raise errors.ItemNotFound(item_id, holding.release.manifest.release_id)
    return value


def _check_dimension(vector: Vector, holding: Holding, fault: Callable[[str], Exception]) -> None:
    dimension = holding.release.manifest.encoder.dimension
    if vector.shape != (dimension,):
        raise fault(f"must have {dimension} values, got {vector.size}.")


def _unit(vector: Vector, fault: Callable[[str], Exception]) -> Any:
    # In float64: the squares of large float32 values overflow.
    wide = vector.astype(np.float64)
    if not np.isfinite(wide).all():
        raise fault("must be finite, got NaN or infinity.")
    norm = np.linalg.norm(wide)
    if norm == 0:
        raise fault("must not be zero.")
    return (wide / norm).astype(np.float32)
