"""A serving root that is upserted into, deleted from, and reindexed: the whole way of a change, without a gateway."""

import contextlib
import hashlib
import pathlib
from typing import Any

import numpy as np
import numpy.typing as npt

from serving.index import IndexParameters
from serving.journal.entry import Change, Upsert
from serving.journal.reader import read_from
from serving.journal.state import UpdatesState, fold
from serving.journal.writer import JournalWriter
from serving.release import layout
from serving.release.cached_embeddings import KEY_BYTES, write_pair
from serving.release.current import read_current
from serving.release.items import Item
from serving.release.publish import Published
from serving.release.reader import open_release, read_manifest
from serving.release.updates import local_updates
from serving.storage import Store, open_store
from tests.serving.journal.changes import upsert
from tests.serving.release_builder import png, publish_release

DIMENSION = 8


def embed(sha256: str, encoder_seed: int = 0) -> npt.NDArray[np.float32]:
    """Returns what the encoder of that seed makes of a content: float32 `[DIMENSION]`, of unit length."""
    digest = hashlib.sha256(f"{sha256} {encoder_seed}".encode()).digest()
    vector = np.frombuffer(digest[:DIMENSION], np.uint8).astype(np.float64) - 127.5
    return (vector / np.linalg.norm(vector)).astype(np.float32)


class UpdatedRoot:
    """folder: what the images' folder lists, item id to sha256. Every reindex is an hour after the one before."""

    def __init__(self, uri: str, work: pathlib.Path) -> None:
        self.store: Store = open_store(uri)
        self.folder = {f"file-{i}.png": hashlib.sha256(png(1000 + i)).hexdigest() for i in range(12)}
        self.writer = JournalWriter(self.store)
        self._work = work
        self._runs = 0

    def append(self, *changes: Change) -> None:
        """Acknowledges changes."""
        self.writer.append(changes)

    def build(self, *, encoder_seed: int = 0) -> dict[str, Any]:
        """Folds what there is and returns all that `publish_release` needs to publish it."""
        self._runs += 1
        work = self._work / f"run-{self._runs}"
        current = read_current(self.store)
        manifest = read_manifest(self.store, current) if current else None
        with contextlib.ExitStack() as stack:
            base = stack.enter_context(local_updates(self.store, manifest)) if manifest else None
            state_file = work / "state.sqlite"
            folded = fold(self.store, base, manifest.watermark if manifest else {}, state_file)
        collection = self._collection(state_file)
        items = [
            Item(name, f"file:///{name}", sha256, 16, 16, {}, b"thumbnail of " + name.encode())
            for name, sha256 in sorted(collection.items())
        ]
        return {
            "root": self.store.uri,
            "work": work / "release",
            "items": items,
            "embeddings": np.stack([embed(item.sha256, encoder_seed) for item in items]),
            "dimension": DIMENSION,
            "parameters": IndexParameters("exact"),
            "encoder_seed": encoder_seed,
            "updates": state_file,
            "watermark": folded.watermark,
            "clock": lambda runs=self._runs: 3600.0 * runs,
        }

    def reindex(self, *, encoder_seed: int = 0, **options: Any) -> Published:
        """Builds a release of what there is and publishes it; its embeddings are cached. options: for publish."""
        published = publish_release(**{**self.build(encoder_seed=encoder_seed), **options})
        digest = published.manifest.encoder.digest
        contents = sorted(set(self.collection().values()))
        keys = np.frombuffer(bytes.fromhex("".join(contents)), np.uint8).reshape(-1, KEY_BYTES)
        write_pair(self.store, digest, "", keys, np.stack([embed(sha256, encoder_seed) for sha256 in contents]))
        return published

    def collection(self, release_id: str = "") -> dict[str, str]:
        """Returns the items as a gateway would answer with them, item id to sha256: release and overlay."""
        release_id = release_id or str(read_current(self.store))
        cache = self._work / "cache"
        with contextlib.closing(open_release(self.store, release_id, cache=cache)) as release:
            items = release.items(range(release.count))
            found = {item.item_id: item.sha256 for item in items}
            latest: dict[str, Any] = {}
            for entry in read_from(self.store, release.manifest.watermark):
                state = release.updates.get(entry.change.item_id)
                known = [s for s in (state and state.stamp, latest.get(entry.change.item_id, (None,))[0]) if s]
                if not known or entry.stamp > max(known):
                    latest[entry.change.item_id] = entry.stamp, entry.change
        for name, (_, change) in latest.items():
            found.pop(name, None)
            if isinstance(change, Upsert):
                found[name] = change.sha256
        return found

    def segments(self) -> list[int]:
        """Returns the seqs of this writer's segments."""
        return [int(stat.path[-28:-8]) for stat in self.store.files(layout.writer_folder(self.writer.writer_id))]

    def contents(self) -> set[str]:
        """Returns the sha256s of what lies in contents/."""
        return {stat.path.rpartition("/")[2] for stat in self.store.files(layout.CONTENTS)}

    def _collection(self, state_file: pathlib.Path) -> dict[str, str]:
        collection = dict(self.folder)
        with contextlib.closing(UpdatesState(state_file)) as state:
            for item in state:
                collection.pop(item.item_id, None)
                if not item.deleted:
                    collection[item.item_id] = item.sha256
        return collection


def sha256_of(seed: int) -> str:
    """Returns the sha256 of the picture of that seed."""
    return upsert("x", seed).sha256
