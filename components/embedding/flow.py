"""What flows between the steps that embed a collection."""

import dataclasses
from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from components.embedding.cache import EmbeddingsCache
from components.reindex.base import Base
from serving.storage import open_store


@dataclasses.dataclass(frozen=True)
class EmbedOptions:
    """Everything the embedding of one collection needs, by value.

    encoder: where the complete encoder lies. digest: of its files. dimension: D.
    output: the Embeddings artifact. serving_root: whose cache is used; empty for none. batch_size: images per call.
    examples: the Examples artifact. base: the release that holds what these keep of it, or None.
    """

    encoder: str
    digest: str
    dimension: int
    output: str
    serving_root: str
    batch_size: int
    examples: str = ""
    base: Base | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.batch_size <= 4096:
            raise ValueError(f"batch_size must be in [1, 4096], got {self.batch_size}.")


@dataclasses.dataclass(frozen=True)
class PartContents:
    """What the items of one part contain, as far as its sha256 begins with the same digits: n contents.

    keys: n x 32 bytes, the sha256. rows: int64 `[n]` in the part. records: int64 `[n]` in the example shard.
    """

    part: int
    keys: bytes
    rows: npt.NDArray[np.int64]
    records: npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class PartItems:
    """A part whose items are written. count: its rows. held_out: bool `[count]`.

    kept: int64 `[n, 2]`, where the base release holds the first n rows, as (shard, row).
    """

    part: int
    count: int
    held_out: npt.NDArray[np.bool_]
    kept: npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class Misses:
    """Contents that the part owns and nobody has embedded. places: for each record, every (part, row) that holds it."""

    keys: tuple[bytes, ...]
    records: tuple[int, ...]
    places: tuple[tuple[tuple[int, int], ...], ...]


@dataclasses.dataclass(frozen=True)
class RowVectors:
    """Embeddings of some rows of a part. rows: int64 `[n]`. vectors: float32 `[n, D]`."""

    rows: npt.NDArray[np.int64]
    vectors: npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class RowFailures:
    """Rows of a part whose image the encoder refused, with the reason."""

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


def placed_vectors(
    embeddings: Iterable[tuple[npt.NDArray[np.float32], Iterable[tuple[int, int]]]],
) -> Iterator[tuple[int, RowVectors]]:
    """Yields (part, RowVectors): each vector `[D]` at every (part, row) it belongs to, one array per part."""
    rows: dict[int, list[int]] = {}
    vectors: dict[int, list[npt.NDArray[np.float32]]] = {}
    for vector, places in embeddings:
        for part, row in places:
            rows.setdefault(part, []).append(row)
            vectors.setdefault(part, []).append(vector)
    for part in rows:
        yield part, RowVectors(np.asarray(rows[part], np.int64), np.stack(vectors[part]))


def open_cache(options: EmbedOptions) -> EmbeddingsCache | None:
    """Returns the cache of the encoder's embeddings, or None where there is no serving root."""
    if not options.serving_root:
        return None
    return EmbeddingsCache(open_store(options.serving_root), options.digest, options.dimension)
