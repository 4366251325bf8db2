"""The release that a reindex builds on: read once, from the serving root, and passed on by value."""

import contextlib
import dataclasses
import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from components.artifact_files import fetched
from serving.release import layout
from serving.release.items import Item, ItemShard, Source
from serving.release.manifest import Manifest
from serving.storage import open_store

BASE = "base.json"
_READ_AT_ONCE = 1000


@dataclasses.dataclass(frozen=True)
class Base:
    """A release, as far as a reindex needs to know it.

    serving_root: where it lies. counts: the items of each of its S shards. encoder_digest: of the encoder that embedded
    it. encoder: the digest of the one that this reindex embeds with. limits: of the images, as ingest's options had
    them when it was made; None where it doesn't say.
    """

    serving_root: str
    release_id: str
    counts: tuple[int, ...]
    encoder_digest: str
    encoder: str
    limits: dict[str, Any] | None = None

    @property
    def count(self) -> int:
        """How many items it holds."""
        return sum(self.counts)

    @property
    def holds_embeddings(self) -> bool:
        """Whether its embeddings are those that this reindex would compute."""
        return self.encoder_digest == self.encoder

    def keeps(self, limits: dict[str, Any]) -> bool:
        """Returns whether an unchanged file would become what the release holds: same encoder, same `limits`."""
        return self.holds_embeddings and self.limits in (None, limits)

    def shard_of(self, item_id: str) -> int:
        """Returns the shard of the release that would hold an item."""
        return 0 if len(self.counts) == 1 else layout.shard_of(item_id, len(self.counts))

    def to_json(self) -> bytes:
        """Returns `base.json`."""
        return (json.dumps(dataclasses.asdict(self), indent=1, sort_keys=True) + "\n").encode()

    @classmethod
    def of(cls, serving_root: str, manifest: Manifest, encoder: str) -> "Base":
        """Returns the release of this manifest as the base of a reindex with the encoder of the digest `encoder`."""
        counts = tuple(shard.count for shard in manifest.index.shards)
        limits = manifest.lineage.get("data", {}).get("limits")
        return cls(serving_root, manifest.release_id, counts, manifest.encoder.digest, encoder, limits)


def read_base(uri: str) -> Base:
    """Returns the base in the BaseRelease artifact at `uri`."""
    value = json.loads(open_store(uri).read(BASE))
    return Base(**{**value, "counts": tuple(value["counts"])})


class BaseItems:
    """Reads items and embeddings of a base, each shard's file opened when it is first asked for.

    A context manager: it holds the files until it is closed. In a local serving root they are read where they lie; from
    an object store each that is asked for is copied once.
    """

    def __init__(self, base: Base) -> None:
        self._base = base
        self._store = open_store(base.serving_root)
        self._folder = layout.release_folder(base.release_id)
        self._stack = contextlib.ExitStack()
        self._files: dict[int, pathlib.Path] = {}
        self._items: dict[int, ItemShard] = {}
        self._vectors: dict[int, npt.NDArray[np.float32]] = {}

    def __enter__(self) -> "BaseItems":
        return self

    def __exit__(self, *_: object) -> None:
        self._vectors.clear()
        self._stack.close()

    def find(self, item_ids: Sequence[str]) -> dict[str, tuple[int, Source]]:
        """Returns (shard, source) of those `item_ids` that the base holds."""
        found: dict[str, tuple[int, Source]] = {}
        for shard, names in self._by_shard(item_ids).items():
            sources = self._shard(shard).sources_of(names)
            found.update({item_id: (shard, source) for item_id, source in sources.items()})
        return found

    def files(self, places: npt.NDArray[np.int64]) -> Iterator[tuple[pathlib.Path, npt.NDArray[np.int64]]]:
        """Yields each local file that holds some of `places`, int64 `[n, 2]` of (shard, row), and which rows."""
        for shard in np.unique(places[:, 0]).tolist():
            yield self._file(shard), places[places[:, 0] == shard, 1]

    def items(self, places: npt.NDArray[np.int64]) -> Iterator[Item]:
        """Yields the items at `places`, int64 `[n, 2]` of (shard, row), in that order, with their thumbnails."""
        for start in range(0, len(places), _READ_AT_ONCE):
            some = places[start : start + _READ_AT_ONCE].tolist()
            read: dict[tuple[int, int], Item] = {}
            for shard in {shard for shard, _ in some}:
                rows = [row for other, row in some if other == shard]
                items = self._shard(shard).by_row(rows, thumbnails=True)
                read.update(zip([(shard, row) for row in rows], items, strict=True))
            yield from (read[shard, row] for shard, row in some)

    def vectors(self, places: npt.NDArray[np.int64], dimension: int) -> npt.NDArray[np.float32]:
        """Returns the embeddings at `places`, int64 `[n, 2]` of (shard, row): float32 `[n, D]`."""
        found = np.zeros((len(places), dimension), np.float32)
        for shard in np.unique(places[:, 0]).tolist():
            mine = places[:, 0] == shard
            found[mine] = self._embeddings(shard)[places[mine, 1]]
        return found

    def _by_shard(self, item_ids: Sequence[str]) -> dict[int, Sequence[str]]:
        if len(self._base.counts) == 1:
            return {0: item_ids}
        by_shard: dict[int, list[str]] = {}
        for item_id in item_ids:
            by_shard.setdefault(self._base.shard_of(item_id), []).append(item_id)
        return {**by_shard}

    def _shard(self, shard: int) -> ItemShard:
        if shard not in self._items:
            self._items[shard] = self._stack.enter_context(contextlib.closing(ItemShard(self._file(shard))))
        return self._items[shard]

    def _file(self, shard: int) -> pathlib.Path:
        if shard not in self._files:
            path = f"{self._folder}/{layout.items_file(shard, len(self._base.counts))}"
            self._files[shard] = self._stack.enter_context(fetched(self._store, path))
        return self._files[shard]

    def _embeddings(self, shard: int) -> npt.NDArray[np.float32]:
        if shard not in self._vectors:
            path = f"{self._folder}/{layout.embeddings_file(shard, len(self._base.counts))}"
            local = self._stack.enter_context(fetched(self._store, path))
            self._vectors[shard] = np.load(local, mmap_mode="r", allow_pickle=False)
        return self._vectors[shard]
