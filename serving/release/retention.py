"""What becomes of old releases: listed, made current again, and in the end deleted."""

import dataclasses
import logging
import pathlib
import time
from collections.abc import Callable

from serving.release import layout
from serving.release.current import read_current, write_current
from serving.release.debris import clean_debris
from serving.release.lease import Lease, hold_lease
from serving.release.manifest import Manifest
from serving.release.reader import open_release, read_manifest
from serving.release.verify import ReleaseRefused
from serving.storage import Store

_logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Listed:
    """A release of a serving root. manifest: None where it can't be read. problem: why, else empty."""

    release_id: str
    current: bool
    manifest: Manifest | None
    problem: str = ""


@dataclasses.dataclass(frozen=True)
class Pruned:
    """What prune deleted. releases: their ids. encoders: their folders, relative to the serving root."""

    releases: tuple[str, ...]
    encoders: tuple[str, ...]


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
    wait_seconds: float = 0.0,
    dry_run: bool = False,
    clock: Callable[[], float] = time.time,
) -> Pruned:
    """Deletes old releases, and encoders that no release names any more.

    Never the current release, nor an encoder of a release that stays, nor anything younger than the grace period:
    a gateway may still be loading it, or a publisher that died may be followed by one that takes its encoder up.

    Args:
      store: the serving root.
      keep: how many of the newest releases stay, at least 1.
      grace_seconds: the age below which nothing is deleted.
      holder: who prunes, for people who find the lease taken.
      wait_seconds: how long to wait for another holder of the lease.
      dry_run: whether only to say what would be deleted.
      clock: seconds since the epoch.

    Raises:
      LeaseHeld, LeaseLost: another changes the serving root.
    """
    if keep < 1:
        raise ValueError(f"keep must be at least 1, got {keep}.")
    if grace_seconds < 0:
        raise ValueError(f"grace_seconds must be at least 0, got {grace_seconds}.")
    with hold_lease(store, holder, wait_seconds=wait_seconds, clock=clock) as lease:
        if not dry_run:
            clean_debris(store)
        bar = clock() - grace_seconds
        listed = list_releases(store)
        readable = [r for r in listed if r.manifest]
        old = [r for r in readable[keep:] if not r.current and r.manifest and r.manifest.created <= bar]
        for release in old if not dry_run else ():
            lease.renew()
            # Without its manifest it is debris, so dying on the way leaves nothing half there.
            store.delete(f"{layout.release_folder(release.release_id)}/{layout.MANIFEST}")
            store.delete(layout.release_folder(release.release_id))
        encoders = _unused_encoders(store, [r for r in listed if r not in old], bar)
        for folder in encoders if not dry_run else ():
            _delete_encoder(store, folder, lease)
    return Pruned(tuple(r.release_id for r in old), tuple(encoders))


def _unused_encoders(store: Store, kept: list[Listed], bar: float) -> list[str]:
    unreadable = [r.release_id for r in kept if r.manifest is None]
    if unreadable:
        _logger.warning("no encoder is deleted: nobody can tell which ones %s needs", ", ".join(unreadable))
        return []
    used = {layout.encoder_folder(r.manifest.encoder.model, r.manifest.encoder.version) for r in kept if r.manifest}
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


def _delete_encoder(store: Store, folder: str, lease: Lease) -> None:
    lease.renew()
    # On an object store the model goes first: without it the rest is debris.
    if store.local_path(folder) is None:
        store.delete(f"{folder}/{layout.SAVED_MODEL}")
    store.delete(folder)
