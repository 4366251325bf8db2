"""A release looked at by another process while one is served: what it finds, and how it is asked."""

import contextlib
import dataclasses
import json
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

_REMEMBERED_AT_ONCE = 500
_REST_SECONDS = 0.002
_NICE = 19


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
        with self._lock:
            if self._closed:
                raise OSError("the gateway is ending.")
            process = self._process = subprocess.Popen(
                [sys.executable, "-m", "serving.gateway.examiner"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
                start_new_session=True,
            )
            # From here, before it has begun: most of what it takes is to start.
            _stand_back(process.pid)
        try:
            data, _ = process.communicate(asked)
        finally:
            # Where nobody waits for it any more.
            with contextlib.suppress(OSError):
                process.kill()
            process.wait()
        if process.returncode or len(data) < HEAD.size:
            raise OSError(f"the process that examined it ended with {process.returncode}.")
        return data


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
