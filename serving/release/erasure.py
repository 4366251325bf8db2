"""Erases what a purge has found: the part of it that deletes and rewrites."""

import dataclasses
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence

from serving.journal.clock import Stamp
from serving.journal.entry import Entry, Tombstone, Upsert
from serving.journal.reader import read_from, read_segment
from serving.journal.segment import SegmentDamaged, to_bytes
from serving.release import layout
from serving.release.cache_retention import compact_cache
from serving.release.current import read_current
from serving.release.encoder_info import EncoderInfo
from serving.release.journal_retention import unused_contents
from serving.release.lease import Lease
from serving.release.live_contents import live_contents
from serving.release.manifest import Manifest, ManifestError
from serving.release.purge_record import PurgeRecord
from serving.release.retention import delete_encoder, delete_release, list_releases
from serving.storage import Store


def is_due(entry: Entry, due: Mapping[str, Stamp]) -> bool:
    """Returns whether an entry is an upsert of before the delete that asked for its bytes to be erased."""
    stamp = due.get(entry.change.item_id)
    return isinstance(entry.change, Upsert) and stamp is not None and entry.stamp < stamp


def erase(
    store: Store, record: PurgeRecord, holding: Sequence[Manifest], lease: Lease, clock: Callable[[], float]
) -> PurgeRecord:
    """Erases everything that a purge is about; returns its record with what was done, and what it still waits for.

    record: of what is due. holding: the releases that hold some of it. Raises ReleaseRefused where a release that
    stays can't be read.
    """
    current = read_current(store)
    releases = [manifest.release_id for manifest in holding if manifest.release_id != current]
    for release_id in releases:
        lease.renew()
        delete_release(store, release_id)
    waits = [f"{m.release_id} is served and holds what it says was deleted" for m in holding if m.release_id == current]
    listed = list_releases(store)
    kept = [release.manifest for release in listed if release.manifest]
    waits += [f"{release.release_id} can't be read: {release.problem}" for release in listed if not release.manifest]
    segments, damaged = _rewrite_segments(store, record.items, lease)
    contents = unused_contents(store, kept, math.inf)
    if contents is None:
        waits.append("nobody can tell which contents are needed")
    for path in contents or ():
        lease.renew()
        store.delete(path)
    with live_contents(store, kept) as live:
        live.add(e.change.sha256 for e in read_from(store, {}) if isinstance(e.change, Upsert))
        digests = [name for name in store.folders(layout.CACHES) if layout.is_sha256(name)]
        embeddings = sum(compact_cache(store, digest, live, math.inf, renew=lease.renew) for digest in digests)
        keys = [bytes.fromhex(sha256) for sha256 in record.sha256s]
        gone = {key.hex() for key, held in zip(keys, live.holds(keys), strict=True) if not held}
    older, encoders, probed = _erase_encoders(store, kept, gone, current, lease)
    waits += damaged + probed
    return dataclasses.replace(
        record,
        done=None if waits else clock(),
        waits="; ".join(waits),
        sha256s=record.sha256s if waits else (),
        releases=(*releases, *older),
        encoders=tuple(encoders),
        segments=segments,
        contents=len(contents or ()),
        embeddings=embeddings,
    )


def _rewrite_segments(store: Store, due: Mapping[str, Stamp], lease: Lease) -> tuple[int, list[str]]:
    """Returns how many segments were rewritten, and what is wrong with those that can't be read."""
    rewritten, damaged = 0, []
    for path in [stat.path for stat in store.files(layout.JOURNAL)]:
        place = layout.parse_segment(path)
        if place is None:
            continue
        try:
            entries = read_segment(store, *place)
        except SegmentDamaged as error:
            damaged.append(str(error))
            continue
        if any(is_due(entry, due) for entry in entries):
            # Stamps stay: who reads the segment from now on knows no less than who read it before.
            new = [Entry(e.stamp, Tombstone(e.change.item_id, purge=True)) if is_due(e, due) else e for e in entries]
            lease.renew()
            store.write(path, to_bytes(new))
            rewritten += 1
    return rewritten, damaged


def _erase_encoders(
    store: Store, kept: Sequence[Manifest], gone: set[str], current: str | None, lease: Lease
) -> tuple[list[str], list[str], list[str]]:
    """Deletes encoders that hold an erased image as their probe, and the releases that have them, but for the current.

    Returns these releases, these encoders, and why the current one's stays.
    """
    named: dict[str, list[str]] = {}
    for manifest in kept:
        folder = layout.encoder_folder(manifest.encoder.model, manifest.encoder.version)
        named.setdefault(folder, []).append(manifest.release_id)
    releases: list[str] = []
    deleted: list[str] = []
    waits: list[str] = []
    for model in store.folders(layout.ENCODERS):
        for version in store.folders(f"{layout.ENCODERS}/{model}"):
            folder = f"{layout.ENCODERS}/{model}/{version}"
            if not _probes(store, folder) & gone:
                continue
            having = named.get(folder, [])
            if current in having:
                waits.append(f"{folder}, of {current}, holds an image as its probe: train a new encoder")
                continue
            for release_id in having:
                lease.renew()
                delete_release(store, release_id)
            releases += having
            delete_encoder(store, folder, lease)
            deleted.append(folder)
    return releases, deleted, waits


def _probes(store: Store, folder: str) -> set[str]:
    try:
        info = EncoderInfo.from_json(store.read(f"{folder}/{layout.ENCODER_INFO}"))
    except (FileNotFoundError, ManifestError):
        return set()  # not a complete encoder, so not one of ours
    return {hashlib.sha256(probe.image).hexdigest() for probe in info.probes}
