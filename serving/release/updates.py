"""The updates of a release as a publisher and a pruner need them: opened wherever they lie, and never lost."""

import contextlib
import pathlib
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping

from serving.journal.reader import segments
from serving.journal.state import UpdatesState
from serving.release import layout
from serving.release.encoder_info import file_sha256
from serving.release.manifest import FileEntry, Manifest, UpdatesRef
from serving.release.verify import PublishRefused, ReleaseRefused, check_file
from serving.storage import Store

# How many items an error names.
_NAMED = 3


class UpdatesLost(PublishRefused):
    """A release would be without changes that were acknowledged, and nobody could put them in any more."""


@contextlib.contextmanager
def local_updates(store: Store, manifest: Manifest) -> Iterator[pathlib.Path | None]:
    """Yields the local file of a release's updates, or None where it carries none.

    A remote one is downloaded, and gone when the context ends. Raises ReleaseRefused where it is damaged.
    """
    if manifest.updates is None:
        yield None
        return
    path = f"{layout.release_folder(manifest.release_id)}/{layout.UPDATES_STATE}"
    with tempfile.TemporaryDirectory(prefix="lookalike-updates-") as temporary:
        file = store.local_path(path)
        if file is None:
            file = pathlib.Path(temporary, "state.sqlite")
            with contextlib.suppress(FileNotFoundError):  # check_file says so
                store.download(path, file)
        check_file(file, manifest.updates.file)
        yield file


@contextlib.contextmanager
def opened_updates(store: Store, manifest: Manifest) -> Iterator[UpdatesState]:
    """Yields the updates of a release; raises ReleaseRefused where they are damaged."""
    with local_updates(store, manifest) as file:
        try:
            state = UpdatesState(file)
        except sqlite3.DatabaseError as error:
            raise ReleaseRefused(f"{layout.UPDATES_STATE}: {error}", fault="updates") from error
        with contextlib.closing(state):
            yield state


def describe_updates(file: pathlib.Path | None) -> UpdatesRef | None:
    """Returns what a manifest says of a state; None where it holds no change, as if there were none."""
    if file is None:
        return None
    with contextlib.closing(UpdatesState(file)) as state:
        counts = state.upsert_count, state.tombstone_count
    if not any(counts):
        return None
    return UpdatesRef(FileEntry(layout.UPDATES_STATE, file.stat().st_size, file_sha256(file)), *counts)


def check_contents(store: Store, file: pathlib.Path) -> None:
    """Raises UpdatesLost where the image of a live upsert is not in contents/: no later encoder could embed it."""
    held = {stat.path for stat in store.files(layout.CONTENTS)}
    with contextlib.closing(UpdatesState(file)) as state:
        missing = [item.item_id for item in state.upserts() if layout.content_file(item.sha256) not in held]
    if missing:
        raise UpdatesLost(f"{store.uri}/{layout.CONTENTS} holds no image of {_some(missing)}.")


def check_not_behind(
    store: Store, file: pathlib.Path | None, watermark: Mapping[str, int], current: Manifest | None
) -> None:
    """Raises UpdatesLost where the current release knows changes that the new one can't have any more.

    What is beyond a release's watermark gateways put over it, as long as the journal holds it. A release whose making
    took long may be published after another that holds more, and after a prune.

    Args:
      store: the serving root.
      file: the state of the new release, None for none.
      watermark: of the new release.
      current: the manifest of the current release, None before the first.
    """
    if current is None or current.updates is None:
        return
    lost: list[str] = []
    unsure: dict[str, bool] = {}
    there = segments(store)
    with opened_updates(store, current) as old, contextlib.closing(UpdatesState(file)) as new:
        for item in old:
            ours = new.get(item.item_id)
            if ours is not None and ours.stamp >= item.stamp:
                continue
            writer = item.stamp.writer
            if writer not in unsure:
                wanted = range(watermark.get(writer, 0) + 1, current.watermark.get(writer, 0) + 1)
                unsure[writer] = not wanted or not set(wanted) <= set(there.get(writer, ()))
            if unsure[writer]:
                lost.append(item.item_id)
    if lost:
        raise UpdatesLost(
            f"{current.release_id} knows of changes of {_some(lost)} that this release was built without, and that "
            "are no longer in the journal: build it again."
        )


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(map(repr, names[:_NAMED])) + more
