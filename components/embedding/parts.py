"""What lies in an Embeddings artifact: the only place that spells its names.

Part j holds the items of example shard j, train before eval, each item once:
`.npy` their embeddings, float32 `[n, D]`; `.sqlite` the items themselves, as serving.release.items writes them;
`.held_out.npy` which of them are in the eval split, bool `[n]`.
"""

import dataclasses
import json
from typing import Any

import numpy as np
import numpy.typing as npt

from components.artifact_files import fetched
from serving.storage import Store

ENCODER = "encoder.json"
REPORT = "report.json"


def part_name(part: int, parts: int) -> str:
    """Returns `part-00000-of-00008` for the first of eight parts."""
    if not 0 <= part < parts:
        raise ValueError(f"part must be in [0, {parts}), got {part}.")
    return f"part-{part:05d}-of-{parts:05d}"


def vectors_file(part: int, parts: int) -> str:
    """Returns the file of a part's embeddings."""
    return f"{part_name(part, parts)}.npy"


def items_file(part: int, parts: int) -> str:
    """Returns the file of a part's items."""
    return f"{part_name(part, parts)}.sqlite"


def held_out_file(part: int, parts: int) -> str:
    """Returns the file that marks a part's held-out rows."""
    return f"{part_name(part, parts)}.held_out.npy"


def failed_file(part: int, parts: int) -> str:
    """Returns the file that lists what a part's encoder refused; there only where it refused something."""
    return f"{part_name(part, parts)}.failed.json"


@dataclasses.dataclass(frozen=True)
class EmbeddingsReport:
    """`report.json`. counts: items of each part. held_out: items in the eval split. dimension: D.

    items: all that were read. contents: distinct ones among them, each `encoded` in this run or `cached` by an earlier
    one. failed: {item_id, reason} of the items whose image the encoder refused: they are in no part. kept: items that
    were taken from the base release with their embeddings: of items, not of contents.
    """

    counts: tuple[int, ...]
    held_out: int
    dimension: int
    items: int
    contents: int
    encoded: int
    cached: int
    failed: tuple[dict[str, str], ...]
    kept: int = 0

    def to_json(self) -> bytes:
        """Returns UTF-8 JSON."""
        return (json.dumps(dataclasses.asdict(self), indent=1, sort_keys=True) + "\n").encode()


def read_report(store: Store) -> EmbeddingsReport:
    """Returns the report of the Embeddings artifact that `store` opens."""
    value = json.loads(store.read(REPORT))
    return EmbeddingsReport(**{**value, "counts": tuple(value["counts"]), "failed": tuple(value["failed"])})


def read_encoder(store: Store) -> dict[str, Any]:
    """Returns `encoder.json`: `digest` of the encoder that made these embeddings, and its `info`."""
    return dict(json.loads(store.read(ENCODER)))


def read_vectors(store: Store, report: EmbeddingsReport, part: int) -> npt.NDArray[np.float32]:
    """Returns a part's embeddings, float32 `[n, D]`, mapped where they lie on a local disk."""
    return open_vectors(store, vectors_file(part, len(report.counts)), report.counts[part])


def open_vectors(store: Store, path: str, count: int) -> npt.NDArray[np.float32]:
    """Returns the `count` embeddings in a `.npy` file, float32 `[count, D]`, mapped where it lies on a local disk."""
    # An empty file can't be mapped, nor one that is gone when the context ends.
    mapped = count and store.local_path(path) is not None
    with fetched(store, path) as local:
        return np.load(local, mmap_mode="r" if mapped else None, allow_pickle=False)


def read_held_out(store: Store, part: int, parts: int) -> npt.NDArray[np.bool_]:
    """Returns which rows of a part are held out, bool `[n]`."""
    with fetched(store, held_out_file(part, parts)) as path:
        return np.load(path, allow_pickle=False)
