"""What was upserted and deleted beside the images: folded out of the serving root, and put into the listing.

The Updates artifact holds `state.sqlite`, as serving.journal.state.fold writes it (there only where it holds a change),
and `watermark.json`: of each writer of the journal the last segment that the state holds.
"""

import contextlib
import json
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any

from components.artifact_files import fetched
from components.ingest.listing import Entry
from components.ingest.set_digest import SetDigest
from serving.journal.state import Folded, State, UpdatesState, fold
from serving.release.current import read_current
from serving.release.encoder_info import file_sha256
from serving.release.layout import shard_of
from serving.release.manifest import Manifest
from serving.release.reader import read_manifest
from serving.release.updates import local_updates
from serving.storage import Store, open_store

STATE = "state.sqlite"
WATERMARK = "watermark.json"
UPSERT, TOMBSTONE = "upsert", "tombstone"


def fold_updates(serving_root: str, target: str, manifest: Manifest | None) -> bool:
    """Writes an Updates artifact to `target`; returns whether it holds other changes than the release does.

    It is what the release of `manifest` carries and the journal beyond its watermark. manifest: None before the first
    release. The images of live upserts are in contents/ afterwards.
    """
    output = open_store(target)
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder, STATE)
        folded = _fold(open_store(serving_root), manifest, file)
        holds = bool(folded.upserts or folded.tombstones)
        if holds:
            output.put(file, STATE)
        before = manifest.updates.file.sha256 if manifest and manifest.updates else None
        differs = (file_sha256(file) if holds else None) != before
    output.write(WATERMARK, (json.dumps(folded.watermark, sort_keys=True) + "\n").encode())
    return differs


def no_updates(target: str) -> None:
    """Writes an Updates artifact that holds none."""
    open_store(target).write(WATERMARK, b"{}\n")


def updates_digest(serving_root: str) -> str:
    """Returns the digest, in hex, of every change that examples made now would contain.

    The same before and after a release takes the changes up, so that an unchanged collection is answered from a cache.
    """
    store = open_store(serving_root)
    digest = SetDigest()
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder, STATE)
        _fold(store, current_manifest(store), file)
        with contextlib.closing(UpdatesState(file)) as state:
            for item in state:
                digest.add(item.item_id, *item.stamp)
    return digest.hexdigest()


def current_manifest(store: Store) -> Manifest | None:
    """Returns the manifest of the current release, None before the first."""
    current = read_current(store)
    return None if current is None else read_manifest(store, current)


@contextlib.contextmanager
def opened_state(uri: str) -> Iterator[UpdatesState]:
    """Yields the state in the Updates artifact at `uri`; an empty one where it holds no change or `uri` is empty."""
    with contextlib.ExitStack() as stack:
        path = None
        if uri and open_store(uri).exists(STATE):
            path = stack.enter_context(fetched(open_store(uri), STATE))
        yield stack.enter_context(contextlib.closing(UpdatesState(path)))


@contextlib.contextmanager
def local_state(uri: str) -> Iterator[tuple[pathlib.Path | None, dict[str, int]]]:
    """Yields the local file of the state in the Updates artifact at `uri` (None for no change), and its watermark."""
    store = open_store(uri)
    watermark: dict[str, int] = json.loads(store.read(WATERMARK))
    if not store.exists(STATE):
        yield None, watermark
        return
    with fetched(store, STATE) as path:
        yield path, watermark


def list_updates(uri: str, shards: int) -> Iterator[tuple[int, list[tuple[Any, ...]]]]:
    """Yields (shard, [entry as a tuple]) of each changed item, to be put over what a collection lists."""
    with opened_state(uri) as state:
        for item in state:
            yield shard_of(item.item_id, shards), [tuple(_entry(item))]


def source_version(sha256: str) -> str:
    """Returns the version of an upserted image: it changes with its content, and is none that a file has."""
    return f"sha256:{sha256}"


def _entry(item: State) -> Entry:
    if item.deleted:
        return Entry(item.item_id, "", -1, "", update=TOMBSTONE)
    return Entry(
        item.item_id,
        item.uri,
        -1,
        source_version(item.sha256),
        attributes=tuple(sorted(item.attributes.items())),
        update=UPSERT,
        content=(item.sha256, item.width, item.height),
    )


def _fold(store: Store, manifest: Manifest | None, target: pathlib.Path) -> Folded:
    if manifest is None:
        return fold(store, None, {}, target)
    with local_updates(store, manifest) as base:
        return fold(store, base, manifest.watermark, target)
