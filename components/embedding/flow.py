"""What flows between the steps that embed a collection."""

import dataclasses
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from components.embedding.cache import EmbeddingsCache
from components.reindex.base import Base
from serving.release.cached_embeddings import Keys, Vectors
from serving.storage import open_store

Numbers = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class EmbedOptions:
    """Everything the embedding of one collection needs, by value.

    encoder: where the complete encoder lies. digest: of its files. dimension: D.
    output: the Embeddings artifact. serving_root: whose cache is used; empty for none. batch_size: images per call.
    examples: the Examples artifact. base: the release that holds what these keep of it, or None.
    threads: that a worker keeps busy, 0 for as many as there are cores.
    """

    encoder: str
    digest: str
    dimension: int
    output: str
    serving_root: str
    batch_size: int
    examples: str
    base: Base | None = None
    threads: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.batch_size <= 4096:
            raise ValueError(f"batch_size must be in [1, 4096], got {self.batch_size}.")
        if not 0 <= self.threads <= 1024:
            raise ValueError(f"threads must be in [0, 1024], got {self.threads}.")


@dataclasses.dataclass(frozen=True)
class PartContents:
    """What the records of one part contain, as far as its sha256 begins with the same digits: n contents.

    keys: uint8 `[n, 32]`, the sha256. rows: int64 `[n]`, of the part's items that come from records: the n-th of these
    has the n-th record.
    """

    part: int
    keys: Keys
    rows: Numbers


@dataclasses.dataclass(frozen=True)
class PartItems:
    """A part whose items are written. count: its rows. held_out: bool `[count]`.

    kept: int64 `[k, 2]`, where the base release holds the first k rows, as (shard, row); those from records follow.
    """

    part: int
    count: int
    held_out: npt.NDArray[np.bool_]
    kept: Numbers


@dataclasses.dataclass(frozen=True)
class Places:
    """The m places at which some contents are found. contents, parts, rows: int64 `[m]`.

    contents: which of them, by number. rows: of the part's items that come from records.
    """

    contents: Numbers
    parts: Numbers
    rows: Numbers

    def __getitem__(self, chosen: npt.NDArray[np.generic]) -> "Places":
        return Places(self.contents[chosen], self.parts[chosen], self.rows[chosen])


@dataclasses.dataclass(frozen=True)
class Misses:
    """n contents that the part owns and nobody has embedded. keys: uint8 `[n, 32]`. records: int64 `[n]`."""

    keys: Keys
    records: Numbers
    places: Places


@dataclasses.dataclass(frozen=True)
class RowVectors:
    """Embeddings of some rows of a part. rows: int64 `[n]`, as in Places. vectors: float32 `[n, D]`."""

    rows: Numbers
    vectors: Vectors


@dataclasses.dataclass(frozen=True)
class RowFailures:
    """Rows of a part, as in Places, whose image the encoder refused, with the reason."""

    reasons: dict[int, str]


@dataclasses.dataclass(frozen=True)
class PartReport:
    """What became of one part."""

    part: int
    count: int
    held_out: int
    items: int
    kept: int
    failed: tuple[dict[str, str], ...]


@dataclasses.dataclass(frozen=True)
class ContentCounts:
    """Distinct contents: embedded in this run, or known already."""

    encoded: int = 0
    cached: int = 0


def groups(numbers: Numbers) -> Iterator[tuple[int, Numbers]]:
    """Yields (number, where it is found), ascending, for every distinct one of `numbers`."""
    order = np.argsort(numbers, kind="stable")
    distinct, starts = np.unique(numbers[order], return_index=True)
    yield from zip(distinct.tolist(), np.split(order, starts[1:]) if len(distinct) else (), strict=True)


def placed_vectors(vectors: Vectors, places: Places) -> Iterator[tuple[int, RowVectors]]:
    """Yields (part, RowVectors): the vector `[D]` of each content at every place it belongs to, one array per part."""
    for part, some in groups(places.parts):
        yield part, RowVectors(places.rows[some], vectors[places.contents[some]])


def open_cache(options: EmbedOptions) -> EmbeddingsCache | None:
    """Returns the cache of the encoder's embeddings, or None where there is no serving root."""
    if not options.serving_root:
        return None
    return EmbeddingsCache(open_store(options.serving_root), options.digest, options.dimension)
