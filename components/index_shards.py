"""The shards of an index, as they lie in the parts of its embeddings."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from components.embedding import parts as embedding_parts
from serving.storage import Store


def parts_of_shard(shard: int, shards: int, parts: int) -> range:
    """Returns the parts whose rows, one part after the other, are the rows of index shard `shard`."""
    return range(shard, parts, shards)


def shard_counts(counts: Sequence[int], shards: int) -> list[int]:
    """Returns how many items each index shard holds, given the items of each part."""
    return [sum(counts[j] for j in parts_of_shard(shard, shards, len(counts))) for shard in range(shards)]


def read_shard_vectors(store: Store, shard: int, shards: int) -> npt.NDArray[np.float32]:
    """Returns the embeddings of an index shard, float32 `[n, D]`, from the Embeddings artifact that `store` opens."""
    report = embedding_parts.read_report(store)
    parts = parts_of_shard(shard, shards, len(report.counts))
    return np.concatenate([embedding_parts.read_vectors(store, report, part) for part in parts])


def held_out_rows(store: Store, shard: int, shards: int, limit: int, seed: int) -> npt.NDArray[np.int64]:
    """Returns rows of an index shard to ask it with, int64 `[Q]`, ascending: held-out items, of all if none is.

    Q is at most `limit` and a tenth of the shard. seed: chooses among them.
    """
    parts = len(embedding_parts.read_report(store).counts)
    marked = [embedding_parts.read_held_out(store, part, parts) for part in parts_of_shard(shard, shards, parts)]
    mask = np.concatenate(marked)
    rows = np.flatnonzero(mask) if mask.any() else np.arange(len(mask))
    most = max(1, min(limit, len(mask) // 10))
    return np.sort(np.random.default_rng(seed).permutation(rows)[:most])
