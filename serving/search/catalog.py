"""The releases that a gateway knows of: in its serving root, and those that it holds or has refused."""

import base64
import dataclasses
import enum
import json
from collections.abc import Callable, Mapping

from serving.release import layout
from serving.release.manifest import Manifest
from serving.release.reader import read_manifest
from serving.release.verify import ReleaseRefused
from serving.search import errors
from serving.search.deadline import Deadline
from serving.search.held import Held
from serving.search.lru import Lru
from serving.search.workers import Workers
from serving.storage import Store

_MANIFESTS_KEPT = 1000
MAX_PAGE = 1000
DEFAULT_PAGE = 50


class State(enum.Enum):
    """What this gateway does with a release."""

    STORED = "stored"
    SERVED = "served"
    HELD = "held"
    REFUSED = "refused"


@dataclasses.dataclass(frozen=True)
class Entry:
    """A release. manifest: None where it can't be read. current: whether `CURRENT` names it. problem: why refused."""

    release_id: str
    manifest: Manifest | None
    state: State
    current: bool
    problem: str = ""

    @property
    def place(self) -> tuple[float, str]:
        """What the list is ordered by."""
        return (self.manifest.created if self.manifest else 0.0, self.release_id)


class Catalog:
    """Looks into the serving root at every call; manifests are immutable, so each is read once."""

    def __init__(
        self, store: Store, held: Held, workers: Workers, *, refused: Mapping[str, str], current: Callable[[], str]
    ) -> None:
        """refused: release ids that must not be served, and why. current: what `CURRENT` named when last looked at."""
        self._store = store
        self._held = held
        self._workers = workers
        self._refused = refused
        self._current = current
        self._manifests: Lru[str, Manifest] = Lru(_MANIFESTS_KEPT)

    async def page(self, size: int, token: str, deadline: Deadline) -> tuple[list[Entry], str]:
        """Returns a page of releases, newest first, and the token of the next page, empty on the last.

        Raises InvalidQuery, StoreUnavailable, DeadlineExceeded, Overloaded.
        """
        if size < 0:
            raise errors.InvalidQuery("page_size", f"page_size must be in [0, {MAX_PAGE}], got {size}.")
        size = min(size or DEFAULT_PAGE, MAX_PAGE)
        after = _place(token) if token else None
        listed = await self._workers.run(self._list, deadline=deadline)
        entries = [entry for entry in listed if after is None or entry.place < after]
        return entries[:size], _token(entries[size - 1].place) if len(entries) > size else ""

    async def get(self, release_id: str, deadline: Deadline) -> Entry:
        """Returns one release; an empty id is the served one.

        Raises ReleaseNotFound, NoRelease where none is served, and what `page` does.
        """
        served = self._held.current
        if not release_id and served is None:
            raise errors.NoRelease("no release is being served yet.")
        known = self._known().get(release_id) if release_id or served is None else served.manifest
        if known is not None:
            return self._entry(known)
        entry = await self._workers.run(self._find, release_id, deadline=deadline)
        if entry is None:
            raise errors.ReleaseNotFound(release_id)
        return entry

    def _list(self) -> list[Entry]:
        known = self._known()
        try:
            stored = self._store.folders(layout.RELEASES)
        except OSError as error:
            raise _unavailable(error) from error
        found = [self._find(release_id) for release_id in stored if release_id not in known]
        entries = [entry for entry in found if entry is not None] + [self._entry(m) for m in known.values()]
        return sorted(entries, key=lambda entry: entry.place, reverse=True)

    def _find(self, release_id: str) -> Entry | None:
        """Returns a release of the serving root; None where it isn't there, or is still being published."""
        manifest = self._manifests.get([release_id]).get(release_id)
        try:
            manifest = manifest or read_manifest(self._store, release_id)
        except (FileNotFoundError, ValueError):
            return None
        except OSError as error:
            raise _unavailable(error) from error
        except ReleaseRefused as error:
            return Entry(release_id, None, State.REFUSED, release_id == self._current(), error.reason)
        self._manifests.put([(release_id, manifest)])
        return self._entry(manifest)

    def _known(self) -> dict[str, Manifest]:
        """Returns the manifests of what is held: it may be gone from the root."""
        releases = [self._held.current, *self._held.kept]
        return {release.manifest.release_id: release.manifest for release in releases if release is not None}

    def _entry(self, manifest: Manifest) -> Entry:
        release_id, served = manifest.release_id, self._held.current
        if served is not None and served.manifest.release_id == release_id:
            state = State.SERVED
        elif release_id in self._known():
            state = State.HELD
        else:
            state = State.REFUSED if release_id in self._refused else State.STORED
        return Entry(release_id, manifest, state, release_id == self._current(), self._refused.get(release_id, ""))


def _unavailable(error: OSError) -> errors.StoreUnavailable:
    # What the store says may tell of its insides; it is in the log as the cause.
    return errors.StoreUnavailable(f"the serving root can't be read now ({type(error).__name__}).")


def _token(place: tuple[float, str]) -> str:
    return base64.urlsafe_b64encode(json.dumps(place).encode()).decode()


def _place(token: str) -> tuple[float, str]:
    try:
        created, release_id = json.loads(base64.urlsafe_b64decode(token.encode()))
        return float(created), str(release_id)
    except (ValueError, TypeError, RecursionError):
        raise errors.InvalidQuery("page_token", "page_token must be the next_page_token of an answer.") from None
