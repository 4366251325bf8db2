"""Copies of a serving root: made while it is served and published to, and made a serving root again elsewhere.

A backup is laid out as the serving root is, without its leases. What is there already is not copied again.
"""

import dataclasses
import logging
import pathlib
import tempfile
import time
from collections.abc import Callable

from serving.release import layout
from serving.release.current import read_current, write_current
from serving.release.debris import clean_debris
from serving.release.lease import hold_lease
from serving.release.reader import open_release
from serving.release.retention import delete_release
from serving.release.transfer import Transfer
from serving.release.verify import ReleaseRefused
from serving.storage import Store

_logger = logging.getLogger(__name__)

_LEASE_SECONDS = 600.0
# In this order: what a release needs comes before its manifest, which comes last of its files.
FOLDERS = (layout.JOURNAL, layout.CONTENTS, layout.PURGES, layout.CACHES, layout.ENCODERS, layout.RELEASES)


class CopyRefused(Exception):
    """A copy that must not be made, or that is not what it should be."""


@dataclasses.dataclass(frozen=True)
class Copied:
    """release_id: what `CURRENT` of the copy names. files, size: how many files and bytes were copied now.

    deleted: files that the backup held of what the serving root has pruned or purged since. problems: what could not be
    copied as it should be, a sentence each; the copy then lacks it, or has an older one.
    """

    release_id: str
    files: int
    size: int
    deleted: int = 0
    problems: tuple[str, ...] = ()


def back_up(
    store: Store,
    target: Store,
    *,
    holder: str,
    wait_seconds: float = 0.0,
    clock: Callable[[], float] = time.time,
) -> Copied:
    """Makes `target` hold what the serving root holds now.

    First everything is copied while others go on publishing; then, under the lease, what has come meanwhile, so that
    nobody waits for long. Everything is held against its digest on the way. `CURRENT` is written last, and not where
    anything of the release it names could not be copied. What the serving root no longer holds is deleted in the end:
    an item that was purged is gone from the backup with the next one.

    Raises:
      CopyRefused: there is nothing to copy, or the two are the same.
      LeaseHeld, LeaseLost: another changes the serving root.
    """
    _check_apart(store, target)
    if read_current(store) is None:
        raise CopyRefused(f"{store.uri} holds no release: there is nothing to back up.")
    before = Transfer(store, target)
    for folder in FOLDERS:
        before.copy(folder)
    with hold_lease(store, holder, seconds=_LEASE_SECONDS, wait_seconds=wait_seconds, clock=clock) as lease:
        clean_debris(store, clock())
        transfer = Transfer(store, target, lease.renew)
        for folder in FOLDERS:
            transfer.copy(folder)
        current = read_current(store)
        if current is None or current in transfer.incomplete:
            raise CopyRefused(f"the current release can't be copied: {'; '.join(transfer.problems)}")
        lease.check()
        write_current(target, current)
        deleted = 0 if transfer.problems else transfer.delete_others(FOLDERS)
    files, size = before.files + transfer.files, before.size + transfer.size
    _logger.info("backed up %s to %s: %d files, %d bytes copied", store.uri, target.uri, files, size)
    return Copied(current, files, size, deleted, tuple(transfer.problems))


def restore(backup: Store, store: Store, *, cache: pathlib.Path | None = None) -> Copied:
    """Makes a serving root of a backup. It may be killed at any time and run again.

    Every release is opened and checked as a reader does; `CURRENT` is written last. An older release that is damaged is
    left out, and named in `problems`.

    Args:
      backup: what `back_up` made.
      store: where the serving root is to be; it must not have a `CURRENT`.
      cache: where copies of releases are kept while they are checked, where `store` is remote; None for nowhere.

    Raises:
      CopyRefused: there is a serving root already, or the backup holds no sound release that `CURRENT` names.
    """
    _check_apart(backup, store)
    current = read_current(backup)
    if current is None:
        raise CopyRefused(f"{backup.uri} holds no backup that was finished: it has no {layout.CURRENT}.")
    if store.exists(layout.CURRENT):
        raise CopyRefused(f"{store.uri} is a serving root already: a backup is restored into one that has no release.")
    transfer = Transfer(backup, store)
    for folder in FOLDERS:
        transfer.copy(folder)
    with tempfile.TemporaryDirectory(prefix="lookalike-restore-") as temporary:
        for release_id in store.folders(layout.RELEASES):
            if release_id in transfer.incomplete:
                continue
            try:
                open_release(store, release_id, cache=cache or pathlib.Path(temporary)).close()
            except (ReleaseRefused, FileNotFoundError) as error:
                transfer.problems.append(f"{release_id} is refused: {error}")
                transfer.incomplete.add(release_id)
    if current in transfer.incomplete:
        raise CopyRefused(f"the current release can't be restored: {'; '.join(transfer.problems)}")
    for release_id in transfer.incomplete:
        delete_release(store, release_id)
    write_current(store, current)
    _logger.info("restored %s from %s: %d files copied", store.uri, backup.uri, transfer.files)
    return Copied(current, transfer.files, transfer.size, 0, tuple(transfer.problems))


def _check_apart(source: Store, target: Store) -> None:
    ours, other = f"{source.uri}/", f"{target.uri}/"
    if ours.startswith(other) or other.startswith(ours):
        raise CopyRefused(f"{source.uri} and {target.uri} must lie apart.")
