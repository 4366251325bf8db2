"""The lease on a serving root: who may change it, until when, and a number that tells old holders from new."""

import contextlib
import dataclasses
import json
import logging
import os
import pathlib
import time
from collections.abc import Callable, Iterator

from serving.release import layout
from serving.storage import Store

_logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.5


class LeaseHeld(Exception):
    """Somebody else is changing the serving root."""


class LeaseLost(Exception):
    """The lease has run out or was taken over: its old holder must change nothing any more."""


@dataclasses.dataclass(frozen=True)
class _Record:
    """A lease as it is stored. expires: seconds since the epoch, 0 when given back. process: of whoever took it."""

    holder: str
    expires: float
    process: str


class Lease:
    """A lease that is held. number: the fencing number, greater than that of every lease before.

    The store knows exclusive creation, and nothing that compares and then swaps. So every lease is a file of its own,
    `<folder>/<number>`, exclusively created, and the highest number counts. To take over is to create the next; who
    gets there second has lost. The highest file stays when its lease is given back, so that numbers only ever grow.
    """

    def __init__(
        self, store: Store, folder: str, number: int, holder: str, seconds: float, clock: Callable[[], float]
    ) -> None:
        self.number = number
        self._store = store
        self._folder = folder
        self._holder = holder
        self._seconds = seconds
        self._clock = clock
        self._expires = 0.0

    def check(self) -> None:
        """Raises LeaseLost where the lease has run out or another holder has taken over."""
        if self._clock() >= self._expires:
            raise LeaseLost(f"lease {self.number} of {self._holder} has run out after {self._seconds:g} s.")
        self._check_newest()

    def renew(self) -> None:
        """Extends the lease where half of it is over; raises LeaseLost where it isn't ours any more."""
        self.check()
        if self._expires - self._clock() < self._seconds / 2:
            self._extend()

    def _check_newest(self) -> None:
        newest = newest_lease(self._store, self._folder)
        if newest != self.number:
            raise LeaseLost(f"lease {self.number} of {self._holder} was taken over by lease {newest}.")

    def _extend(self) -> None:
        self._expires = self._clock() + self._seconds
        self._write(_Record(self._holder, self._expires, _process(os.getpid())))

    def _give_back(self) -> None:
        # Where another has taken over there is nothing to give back.
        with contextlib.suppress(LeaseLost):
            self._check_newest()
            self._write(_Record(self._holder, 0.0, ""))

    def _write(self, record: _Record) -> None:
        self._store.write(_file(self._folder, self.number), _encode(record))


@contextlib.contextmanager
def hold_lease(
    store: Store,
    holder: str,
    *,
    seconds: float = 300.0,
    wait_seconds: float = 0.0,
    clock: Callable[[], float] = time.time,
    folder: str = layout.LEASE,
) -> Iterator[Lease]:
    """Holds the lease on a serving root while the context lasts.

    Args:
      store: the serving root.
      holder: a name for people.
      seconds: how long after its last renewal a lease of a dead holder still counts.
      wait_seconds: how long to wait for another holder.
      clock: seconds since the epoch.
      folder: which lease: `LEASE` to publish, `REINDEX` to reindex.

    Raises:
      LeaseHeld: where another still holds it after `wait_seconds`.
    """
    deadline = time.monotonic() + wait_seconds
    while True:
        try:
            lease = _take(store, folder, holder, seconds, clock)
            break
        except LeaseHeld:
            if time.monotonic() >= deadline:
                raise
            time.sleep(min(_POLL_SECONDS, wait_seconds))
    _logger.info("%s %d on %s taken by %s", folder, lease.number, store.uri, holder)
    try:
        yield lease
    finally:
        lease._give_back()


def newest_lease(store: Store, folder: str) -> int:
    """Returns the number of the newest lease in `folder`, 0 before the first."""
    return max(_numbers(store, folder), default=0)


def _take(store: Store, folder: str, holder: str, seconds: float, clock: Callable[[], float]) -> Lease:
    newest = newest_lease(store, folder)
    if newest:
        record = _read(store, folder, newest, seconds)
        if clock() < record.expires and not _is_dead(record.process):
            raise LeaseHeld(f"{record.holder} holds lease {newest} for another {record.expires - clock():.0f} s.")
    lease = Lease(store, folder, newest + 1, holder, seconds, clock)
    lease._expires = clock() + seconds
    try:
        store.create(_file(folder, lease.number), _encode(_Record(holder, lease._expires, _process(os.getpid()))))
    except FileExistsError as error:
        raise LeaseHeld(f"another took lease {lease.number} at the same moment.") from error
    try:
        # Who looked long ago may have created a number that was used and deleted meanwhile.
        lease._check_newest()
    except LeaseLost as error:
        store.delete(_file(folder, lease.number))
        raise LeaseHeld(str(error)) from error
    for number in _numbers(store, folder):
        if number < lease.number:
            store.delete(_file(folder, number))
    return lease


def _file(folder: str, number: int) -> str:
    return f"{folder}/{number:012d}"


def _numbers(store: Store, folder: str) -> list[int]:
    names = [stat.path.rpartition("/")[2] for stat in store.files(folder)]
    return [int(name) for name in names if name.isdecimal()]


def _encode(record: _Record) -> bytes:
    return (json.dumps(dataclasses.asdict(record)) + "\n").encode()


def _read(store: Store, folder: str, number: int, seconds: float) -> _Record:
    try:
        return _Record(**json.loads(store.read(_file(folder, number))))
    except FileNotFoundError as error:
        raise LeaseHeld(f"lease {number} has just been followed by another.") from error
    except (ValueError, TypeError):
        # Its holder died while it was writing, on a file system without links: it counts from then.
        modified = max(s.modified for s in store.files(folder) if s.path == _file(folder, number))
        return _Record("somebody unknown", modified + seconds, "")


def _process(pid: int) -> str:
    """Returns what names a process of this machine and of no other, or nothing where the system doesn't tell."""
    try:
        boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = pathlib.Path("/proc/self/ns/pid").readlink()
        # The second field is the command in parentheses, which may hold anything; after it come the state and, as the
        # 22nd, the start time.
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    # A zombie has ended, only its parent hasn't noticed.
    return "" if fields[0] in ("Z", "X") else f"{boot} {namespace} {pid} {fields[19]}"


def _is_dead(process: str) -> bool:
    """Returns whether a process of this machine has ended: then nobody need wait for its lease to run out."""
    mine = _process(os.getpid()).split()
    its = process.split()
    if len(mine) != 4 or len(its) != 4 or its[:2] != mine[:2]:
        return False
    return _process(int(its[2])) != process
