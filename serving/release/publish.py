"""Publishes a release: encoder, body, manifest, `CURRENT`, in this order, so that dying anywhere changes nothing."""

import dataclasses
import datetime
import logging
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from serving.index import IndexParameters, read_parameters
from serving.journal.reader import heads
from serving.release import layout
from serving.release.current import read_current, write_current
from serving.release.debris import clean_debris
from serving.release.encoder_info import EncoderInfo, file_sha256, list_files, tree_digest
from serving.release.lease import Lease, hold_lease
from serving.release.manifest import EncoderRef, FileEntry, GoldenQuery, IndexRef, Manifest, ManifestError, Shard
from serving.release.reader import load_release, read_encoder, read_manifest
from serving.release.updates import check_contents, check_not_behind, describe_updates
from serving.release.verify import PublishRefused as PublishRefused
from serving.release.verify import ReleaseRefused, check_encoder_folder
from serving.storage import Store

_logger = logging.getLogger(__name__)


class StaleBase(PublishRefused):
    """`CURRENT` is no longer the release that this one was built on."""


@dataclasses.dataclass(frozen=True)
class Published:
    """release_id: what `CURRENT` names now. unchanged: it held the same content before. manifest: of that release."""

    release_id: str
    unchanged: bool
    manifest: Manifest


def publish(
    store: Store,
    *,
    encoder: pathlib.Path,
    body: pathlib.Path,
    model: str,
    encoder_digest: str,
    golden: Sequence[GoldenQuery],
    golden_recall: float,
    evaluation: dict[str, Any],
    lineage: dict[str, Any],
    holder: str,
    updates: pathlib.Path | None = None,
    watermark: Mapping[str, int] | None = None,
    base: str | None = None,
    wait_seconds: float = 0.0,
    lease_seconds: float = 300.0,
    clock: Callable[[], float] = time.time,
) -> Published:
    """Makes an encoder and the index that was built with it the current release.

    Args:
      store: the serving root.
      encoder: a local folder that holds a complete encoder.
      body: a local folder with `index/`, `embeddings/` and `items/` as serving.release.layout names them.
      model: TF Serving's name of the encoder.
      encoder_digest: of the encoder that the body was embedded with.
      golden, golden_recall, evaluation, lineage: for the manifest.
      holder: who publishes, for people who find the lease taken.
      updates: the local file of the state that serving.journal.state.fold wrote and the body was built by.
      watermark: of that state: of each writer of the journal the last segment it holds.
      base: the release that the body was built on: `CURRENT` must still name it, or hold the same content already.
      wait_seconds: how long to wait for another publisher.
      lease_seconds: how long the lease counts after this process died where nobody can see that.
      clock: seconds since the epoch.

    Raises:
      ReleaseRefused: a reader would refuse this release.
      PublishRefused: the body was embedded with another encoder, it was built on another release than the current
        one, changes would be lost that were acknowledged, or `CURRENT` was changed without the lease.
      LeaseHeld, LeaseLost: another publishes, or has taken over because this one took too long.
    """
    digest = tree_digest(list_files(encoder))
    if digest != encoder_digest:
        raise PublishRefused(f"the index was embedded by the encoder {encoder_digest}, but this one is {digest}.")
    info = check_encoder_folder(encoder, _reference(encoder, model, 1, digest), layout.ENCODER_INFO)
    draft = Manifest(
        release_id="draft",
        created=clock(),
        parent=None,
        encoder=_reference(encoder, model, 1, digest),
        index=_describe(body),
        golden=tuple(golden),
        golden_recall=golden_recall,
        evaluation=evaluation,
        lineage=lineage,
        updates=describe_updates(updates),
        watermark=dict(watermark or {}),
    )
    # What a reader would refuse is better found here, before anything is written.
    load_release(body, draft, info, updates=updates).close()
    with hold_lease(store, holder, seconds=lease_seconds, wait_seconds=wait_seconds, clock=clock) as lease:
        parent = read_current(store)
        clean_debris(store)
        same = _same_content(store, draft, parent)
        if same is not None and same.release_id == parent:
            return Published(parent, True, same)
        if base is not None and parent != base:
            raise StaleBase(f"this release was built on {base}, but {layout.CURRENT} is {parent} now.")
        _check_updates(store, updates, draft, parent)
        if same is None:
            there = heads(store)
            version = _place_encoder(store, encoder, draft.encoder, clock)
            lease.renew()
            stamp = datetime.datetime.fromtimestamp(clock(), datetime.timezone.utc)
            same = dataclasses.replace(
                draft,
                # The lease's number makes it unique.
                release_id=f"{stamp:%Y%m%dT%H%M%SZ}-{lease.number}",
                parent=parent,
                encoder=dataclasses.replace(draft.encoder, version=version),
                # Of writers whose segments are pruned nothing is left to be read twice.
                watermark={w: seq for w, seq in draft.watermark.items() if w in there},
            )
            _upload(store, body, updates, same, lease)
        lease.check()
        if read_current(store) != parent:
            raise PublishRefused(f"{layout.CURRENT} was {parent} and is {read_current(store)} now.")
        write_current(store, same.release_id)
    _logger.info("%s: %s is current, after %s", store.uri, same.release_id, parent)
    return Published(same.release_id, False, same)


def _reference(encoder: pathlib.Path, model: str, version: int, digest: str) -> EncoderRef:
    try:
        info = EncoderInfo.from_json((encoder / layout.ENCODER_INFO).read_bytes())
    except FileNotFoundError as error:
        raise PublishRefused(f"{encoder} is no complete encoder: it has no {layout.ENCODER_INFO}.") from error
    except ManifestError as error:
        raise PublishRefused(f"{layout.ENCODER_INFO}: {error}") from error
    return EncoderRef(model, version, digest, info.dimension, info.normalised)


def _describe(body: pathlib.Path) -> IndexRef:
    """Returns what a body holds, every byte of it by its sha256."""
    folders = sorted(path.name for path in (body / "index").iterdir())
    number = len(folders)
    if not number:
        raise PublishRefused(f"{body} holds no index.")
    found: set[IndexParameters] = set()
    shards = []
    for shard in range(number):
        index = layout.index_folder(shard, number)
        parameters, (count, _) = read_parameters(body / index)
        found.add(parameters)
        files = [FileEntry(f"{index}/{e.path}", e.size, e.sha256) for e in list_files(body / index)]
        for path in (layout.embeddings_file(shard, number), layout.items_file(shard, number)):
            files.append(FileEntry(path, (body / path).stat().st_size, file_sha256(body / path)))
        shards.append(Shard(index, files[-2].path, files[-1].path, count, tuple(files)))
    if len(found) > 1:
        raise PublishRefused(f"the shards of {body} were built with different parameters: {sorted(map(str, found))}.")
    parameters = found.pop()
    return IndexRef(parameters.kind, "cosine", sum(s.count for s in shards), parameters.to_dict(), tuple(shards))


def _content(manifest: Manifest) -> tuple[Any, ...]:
    """Returns what makes two releases the same: not when, by whom and in which run they were made.

    Nor the watermark: where it alone has moved, what it has passed had been superseded.
    """
    encoder = dataclasses.replace(manifest.encoder, version=1)
    return encoder, manifest.index, manifest.golden, manifest.golden_recall, manifest.updates


def _same_content(store: Store, draft: Manifest, parent: str | None) -> Manifest | None:
    """Returns a release with the draft's content: the current one, or one whose publisher died before `CURRENT`."""
    releases = [name for name in store.folders(layout.RELEASES) if name != parent]
    for name in ([parent] if parent else []) + sorted(releases, reverse=True):
        try:
            manifest = read_manifest(store, name)
        except (ReleaseRefused, FileNotFoundError, ValueError) as error:
            _logger.warning("%s can't be read: %s", name, error)
            continue
        if (name == parent or manifest.parent == parent) and _content(manifest) == _content(draft):
            if _is_whole(store, manifest):
                return manifest
            _logger.warning("%s has the same content, but files of it are missing", name)
    return None


def _is_whole(store: Store, manifest: Manifest) -> bool:
    """Returns whether everything that a release names is there, by its size."""
    base = layout.release_folder(manifest.release_id)
    sizes = {stat.path: stat.size for stat in store.files(base)}
    encoder = layout.encoder_folder(manifest.encoder.model, manifest.encoder.version)
    return all(sizes.get(f"{base}/{e.path}") == e.size for e in manifest.files) and store.exists(
        f"{encoder}/{layout.SAVED_MODEL}"
    )


def _place_encoder(store: Store, encoder: pathlib.Path, expected: EncoderRef, clock: Callable[[], float]) -> int:
    """Returns the version under which the store holds the encoder: one that is there already, or the next."""
    base = layout.model_folder(expected.model)
    versions = sorted((int(v) for v in store.folders(base) if v.isdecimal()), reverse=True)
    sizes = {entry.path: entry.size for entry in list_files(encoder)}
    for version in versions:
        folder = layout.encoder_folder(expected.model, version)
        # Reading all of an encoder is dear, and one of other sizes can't be the same.
        if {s.path.removeprefix(f"{folder}/"): s.size for s in store.files(folder)} == sizes:
            try:
                read_encoder(store, dataclasses.replace(expected, version=version))
                return version
            except ReleaseRefused:
                continue
    # By the clock, like TFX's Pusher, so that a version that was pruned does not come again with other content.
    version = max([int(clock()), *(v + 1 for v in versions)])
    store.upload(encoder, layout.encoder_folder(expected.model, version), last=layout.SAVED_MODEL)
    return version


def _check_updates(store: Store, updates: pathlib.Path | None, draft: Manifest, parent: str | None) -> None:
    try:
        current = read_manifest(store, parent) if parent else None
    except (ReleaseRefused, FileNotFoundError) as error:
        _logger.warning("%s can't be read, so nobody can tell which changes it knows of: %s", parent, error)
        current = None
    check_not_behind(store, updates, draft.watermark, current)
    if updates is not None:
        check_contents(store, updates)


def _upload(store: Store, body: pathlib.Path, updates: pathlib.Path | None, manifest: Manifest, lease: Lease) -> None:
    base = layout.release_folder(manifest.release_id)
    for entry in manifest.files:
        source = updates if updates is not None and entry.path == layout.UPDATES_STATE else body / entry.path
        store.put(source, f"{base}/{entry.path}")
        lease.renew()
    store.write(f"{base}/{layout.MANIFEST}", manifest.to_json())
