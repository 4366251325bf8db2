"""A release looked at by another process while one is served: what it finds, and how it is asked."""

import contextlib
import dataclasses
import json
import logging
import math
import os
import pathlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from serving.gateway.examiner import HEAD
from serving.release.reader import Checked
from serving.release.share import Share
from serving.release.verify import ReleaseRefused
from serving.search.searcher import Searcher
from serving.spare_time import take_only_spare_time
from serving.storage import Store

_log = logging.getLogger(__name__)
_REMEMBERED_AT_ONCE = 500
_REST_SECONDS = 0.002
_NICE = 19
# A machine that is always busy has no spare time, and a release must be examined some day. There is no way back to a
# usual priority without privileges, so another process is started.
_PATIENCE_SECONDS = 10.0
_LOOK_SECONDS = 0.5


@dataclasses.dataclass(frozen=True)
class Examined:
    """What was found. rows: of the items that answers will most likely hold; items: these, as Item messages."""

    checked: Checked
    rows: Sequence[int]
    items: Sequence[bytes]


class Examiner:
    """Starts a process for each release. May be used from any thread."""

    def __init__(
        self,
        store: Store,
        *,
        cache: pathlib.Path | None,
        share: Share | None,
        items: int,
        finish: Callable[[bytes], Any],
    ) -> None:
        """cache, share: as for `open_release`. items: that a searcher remembers at most.

        finish: makes of an Item message what a searcher's answers hold.
        """
        self._finish = finish
        self._asked: dict[str, Any] = {
            "root": store.uri,
            "cache": None if cache is None else str(cache),
            "share": None if share is None else str(share),
            "items": items,
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._closed = False

    def examine(self, release_id: str, served: Searcher[Any] | None) -> Examined:
        """Returns what was found of a release. served: what answers so far.

        Raises as `open_release` does, and OSError where the process has died: another one may live.
        """
        asked: dict[str, Any] = {"release_id": release_id, "served": "", "rows": []}
        if served is not None:
            asked |= {"served": served.release.manifest.release_id, "rows": served.remembered()}
        data = self._ask(json.dumps({**self._asked, **asked}).encode())
        end = HEAD.size + HEAD.unpack_from(data)[0]
        found = json.loads(data[HEAD.size : end])
        if "refused" in found:
            raise ReleaseRefused(found["refused"], fault=found["fault"])
        if "unavailable" in found:
            raise OSError(found["unavailable"])
        arrays: list[bytes] = []
        for size in found["sizes"]:
            arrays.append(data[end : end + size])
            end += size
        *ranks, all_ranks, rows, lengths, items = arrays
        checked = Checked(
            found["encoder_info"].encode(),
            [np.frombuffer(each, np.int32) for each in ranks],
            np.frombuffer(all_ranks, np.int32),
        )
        return Examined(checked, np.frombuffer(rows, np.int64).tolist(), _split(items, lengths))

    def prepare(self, searcher: Searcher[Any], examined: Examined) -> None:
        """Gives a searcher the items, so that the first answers needn't wait for them; takes its time."""
        for start in range(0, len(examined.rows), _REMEMBERED_AT_ONCE):
            batch = slice(start, start + _REMEMBERED_AT_ONCE)
            searcher.remember(examined.rows[batch], [self._finish(data) for data in examined.items[batch]])
            time.sleep(_REST_SECONDS)

    def close(self) -> None:
        """Ends the process."""
        with self._lock:
            self._closed = True
            if self._process is not None:
                self._process.kill()

    def _ask(self, asked: bytes) -> bytes:
        process = self._start()
        # From its first moment, before it has begun: most of what it takes is to start.
        _stand_back(process.pid)
        data = _answer(process, asked, _PATIENCE_SECONDS)
        if data is None:
            _log.warning(
                "a release was not examined in spare time: there is too little of it; examined as other work is"
            )
            process = self._start()
            data = _answer(process, asked, math.inf)
        if data is None or process.returncode or len(data) < HEAD.size:
            raise OSError(f"the process that examined it ended with {process.returncode}.")
        return data

    def _start(self) -> "subprocess.Popen[bytes]":
        with self._lock:
            if self._closed:
                raise OSError("the gateway is ending.")
            self._process = subprocess.Popen(
                [sys.executable, "-m", "serving.gateway.examiner"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
                start_new_session=True,
            )
            return self._process


def _answer(process: "subprocess.Popen[bytes]", asked: bytes, patience: float) -> bytes | None:
    """Returns what a process answers, or None where it could have run for `patience` seconds and was not let."""
    try:
        unsent: bytes | None = asked
        while True:
            try:
                return process.communicate(unsent, timeout=_LOOK_SECONDS)[0]
            except subprocess.TimeoutExpired:
                unsent = None  # the process object has it
                if _waited(process.pid) > patience:
                    return None
    finally:
        # Where nobody waits for it any more.
        with contextlib.suppress(OSError):
            process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):  # it may hold what was never read
                    pipe.close()


def _waited(process: int) -> float:
    """Returns for how many seconds others ran while a process could have (Linux, sched-stats.rst); 0 if unknown."""
    try:
        return int(pathlib.Path(f"/proc/{process}/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0


def _stand_back(process: int) -> None:
    """Lets a process take only what processor time others leave."""
    take_only_spare_time(process)
    with contextlib.suppress(OSError):
        # Where that is nothing, this is something.
        os.setpriority(os.PRIO_PROCESS, process, _NICE)
        # Where Linux shares it out by sessions first (this process has one of its own), that counts only within one.
        pathlib.Path(f"/proc/{process}/autogroup").write_text(str(_NICE))


def _split(items: bytes, lengths: bytes) -> list[bytes]:
    ends = np.cumsum(np.frombuffer(lengths, np.int64)).tolist()
    return [items[start:end] for start, end in zip([0, *ends], ends, strict=False)]
