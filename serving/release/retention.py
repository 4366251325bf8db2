"""What becomes of old releases: listed, made current again, and in the end deleted."""

import dataclasses
import logging
import pathlib
import time
from collections.abc import Callable

from serving.release import layout
from serving.release.cache_retention import compact_cache, unused_caches
from serving.release.current import read_current, write_current
from serving.release.debris import clean_debris
from serving.release.journal_retention import empty_writers, passed_segments, unused_contents
from serving.release.lease import Lease, hold_lease
from serving.release.live_contents import live_contents
from serving.release.manifest import Manifest
from serving.release.reader import open_release, read_manifest
from serving.release.verify import ReleaseRefused
from serving.storage import Store

_logger = logging.getLogger(__name__)

# Longer than any run takes: from when it folds the journal and embeds to when it publishes.
RUN_GRACE_SECONDS = 24 * 3600.0
# Renewing a lease lists its folder.
_RENEW_EVERY = 100


@dataclasses.dataclass(frozen=True)
class Listed:
    """A release of a serving root. manifest: None where it can't be read. problem: why, else empty."""

    release_id: str
    current: bool
    manifest: Manifest | None
    problem: str = ""


@dataclasses.dataclass(frozen=True)
class Pruned:
    """What prune deleted. releases: their ids. The others: paths, relative to the serving root.

    caches: of encoders that no release has. embeddings: how many it left out of the caches of those that some have.
    """

    releases: tuple[str, ...]
    encoders: tuple[str, ...]
    segments: tuple[str, ...] = ()
    contents: tuple[str, ...] = ()
    caches: tuple[str, ...] = ()
    embeddings: int = 0


def list_releases(store: Store) -> list[Listed]:
    """Returns every release that has a manifest, newest first, those that can't be read last."""
    current = read_current(store)
    listed = []
    for name in store.folders(layout.RELEASES):
        try:
            listed.append(Listed(name, name == current, read_manifest(store, name)))
        except FileNotFoundError:
            continue  # being published, or debris
        except (ReleaseRefused, ValueError) as error:
            listed.append(Listed(name, name == current, None, str(error)))
    return sorted(listed, key=lambda r: (r.manifest.created if r.manifest else 0, r.release_id), reverse=True)


def rollback(
    store: Store,
    release_id: str,
    *,
    holder: str,
    cache: pathlib.Path | None = None,
    wait_seconds: float = 0.0,
    clock: Callable[[], float] = time.time,
) -> str | None:
    """Makes an older release current, after checking all of it; returns the one that was.

    Raises:
      ReleaseRefused: the release must not be served; `CURRENT` stays.
      FileNotFoundError: there is no such release.
      LeaseHeld, LeaseLost: another changes the serving root.
    """
    with hold_lease(store, holder, wait_seconds=wait_seconds, clock=clock) as lease:
        open_release(store, release_id, cache=cache).close()
        before = read_current(store)
        lease.check()
        if before != release_id:
            write_current(store, release_id)
    _logger.info("%s: %s is current, after %s", store.uri, release_id, before)
    return before


def prune(
    store: Store,
    *,
    keep: int,
    grace_seconds: float,
    holder: str,
    run_grace_seconds: float = RUN_GRACE_SECONDS,
    wait_seconds: float = 0.0,
    dry_run: bool = False,
    clock: Callable[[], float] = time.time,
) -> Pruned:
    """Deletes old releases, and all that no release needs any more.

    Never the current release, nor an encoder of a release that stays, nor anything younger than the grace period:
    a gateway may still be loading it, or a publisher that died may be followed by one that takes its encoder up.
    Segments of the journal go when the watermark of every release that stays has passed them: until then a gateway on
    that release needs them. Contents go when neither its updates nor the journal name them; cached embeddings when no
    release has an item of that content, or that encoder.

    Args:
      store: the serving root.
      keep: how many of the newest releases stay, at least 1.
      grace_seconds: the age below which nothing is deleted.
      holder: who prunes, for people who find the lease taken.
      run_grace_seconds: the age below which nothing is deleted that runs may need which aren't published yet: segments,
        contents, cached embeddings.
      wait_seconds: how long to wait for another holder of the lease.
      dry_run: whether only to say what would be deleted.
      clock: seconds since the epoch.

    Raises:
      LeaseHeld, LeaseLost: another changes the serving root.
    """
    if keep < 1:
        raise ValueError(f"keep must be at least 1, got {keep}.")
    for name, seconds in (("grace_seconds", grace_seconds), ("run_grace_seconds", run_grace_seconds)):
        if seconds < 0:
            raise ValueError(f"{name} must be at least 0, got {seconds}.")
    with hold_lease(store, holder, wait_seconds=wait_seconds, clock=clock) as lease:
        if not dry_run:
            clean_debris(store, clock())
        bar = clock() - grace_seconds
        listed = list_releases(store)
        readable = [r for r in listed if r.manifest]
        old = [r for r in readable[keep:] if not r.current and r.manifest and r.manifest.created <= bar]
        for release in old if not dry_run else ():
            lease.renew()
            delete_release(store, release.release_id)
        names = tuple(r.release_id for r in old)
        kept = [r.manifest for r in listed if r not in old and r.manifest]
        unreadable = [r.release_id for r in listed if r.manifest is None]
        if unreadable:
            _logger.warning("only releases are deleted: nobody can tell what %s needs", ", ".join(unreadable))
            return Pruned(names, ())
        encoders = _unused_encoders(store, kept, bar)
        for folder in encoders if not dry_run else ():
            delete_encoder(store, folder, lease)
        run_bar = clock() - run_grace_seconds
        segments, contents = _prune_journal(store, kept, run_bar, lease, dry_run)
        caches, embeddings = _prune_caches(store, kept, run_bar, lease, dry_run)
    return Pruned(names, tuple(encoders), segments, contents, caches, embeddings)


def delete_release(store: Store, release_id: str) -> None:
    """Deletes a release; the holder of the lease must know that it isn't the current one."""
    # Without its manifest it is debris, so dying on the way leaves nothing half there.
    store.delete(f"{layout.release_folder(release_id)}/{layout.MANIFEST}")
    store.delete(layout.release_folder(release_id))


def _prune_journal(
    store: Store, kept: list[Manifest], bar: float, lease: Lease, dry_run: bool
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    segments = passed_segments(store, kept, bar)
    # In this order: a content is named by its segment until a release names it.
    if not dry_run:
        _delete_all(store, segments, lease)
        for folder in empty_writers(store):
            store.delete_empty(folder)
    contents = unused_contents(store, kept, bar, set(segments)) or []
    if not dry_run:
        _delete_all(store, contents, lease)
    return tuple(segments), tuple(contents)


def _prune_caches(
    store: Store, kept: list[Manifest], bar: float, lease: Lease, dry_run: bool
) -> tuple[tuple[str, ...], int]:
    digests = {manifest.encoder.digest for manifest in kept}
    caches = unused_caches(store, digests, bar)
    if not dry_run:
        _delete_all(store, caches, lease)
    embeddings = 0
    try:
        with live_contents(store, kept) as live:
            for digest in sorted(digests):
                embeddings += compact_cache(store, digest, live, bar, dry_run=dry_run, renew=lease.renew)
    except ReleaseRefused as error:
        _logger.warning("no cached embedding is deleted: nobody can tell which are needed: %s", error)
    return tuple(caches), embeddings


def _delete_all(store: Store, paths: list[str], lease: Lease) -> None:
    for number, path in enumerate(paths):
        if number % _RENEW_EVERY == 0:
            lease.renew()
        store.delete(path)


def _unused_encoders(store: Store, kept: list[Manifest], bar: float) -> list[str]:
    used = {layout.encoder_folder(manifest.encoder.model, manifest.encoder.version) for manifest in kept}
    unused = []
    for model in store.folders(layout.ENCODERS):
        # What isn't a version is not ours.
        versions = sorted(int(name) for name in store.folders(f"{layout.ENCODERS}/{model}") if name.isdecimal())
        for version in versions:
            folder = f"{layout.ENCODERS}/{model}/{version}"
            if folder not in used:
                newest = max((stat.modified for stat in store.files(folder)), default=0.0)
                if newest <= bar:
                    unused.append(folder)
    return unused


def delete_encoder(store: Store, folder: str, lease: Lease) -> None:
    """Deletes an encoder that no release names. folder: relative to the serving root."""
    lease.renew()
    # On an object store the model goes first: without it the rest is debris.
    if store.local_path(folder) is None:
        store.delete(f"{folder}/{layout.SAVED_MODEL}")
    store.delete(folder)
