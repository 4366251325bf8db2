"""Two reindexes at once, and killed ones: real processes, stopped and killed while they are at work."""

import contextlib
import json
import os
import pathlib
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from serving.release import layout
from serving.release.current import read_current
from serving.release.lease import hold_lease
from tests.components.reindexing import Root

pytestmark = pytest.mark.slow
# A guard against hanging, not a measure: nothing here is expected to take so long.
PATIENCE = 300


class Reindex:
    """A `lookalike reindex` that is under way."""

    def __init__(self, root: Root, name: str, *flags: str) -> None:
        self.summary_file = root.folder / f"{name}.json"
        command = [sys.executable, "-m", "serving.cli", "reindex", "--images", root.source, "--set", "ingest.shards=2"]
        command += ["--root", str(root.folder / "runs"), "--serving-root", str(root.serving_root)]
        command += ["--summary", str(self.summary_file), *flags]
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        self.process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment
        )
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._log: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self._lines.put(line)
        self._lines.put(None)

    def wait_for(self, text: str) -> None:
        """Returns as soon as it has logged a line with `text`."""
        while (line := self._lines.get(timeout=PATIENCE)) is not None:
            self._log.append(line)
            if text in line:
                return
        raise AssertionError(f"{text!r} was never logged:\n{''.join(self._log[-40:])}")

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self) -> dict:
        """Waits for its end; returns its summary."""
        code = self.process.wait(PATIENCE)
        while (line := self._lines.get(timeout=PATIENCE)) is not None:
            self._log.append(line)
        assert self.summary_file.exists(), "".join(self._log[-40:])
        summary = json.loads(self.summary_file.read_text())
        assert summary["exit_code"] == code, summary
        return summary

    def close(self) -> None:
        """Kills it, where it hasn't ended."""
        self.process.kill()
        self.process.wait()
        self._reader.join()
        assert self.process.stderr is not None
        self.process.stderr.close()


@contextlib.contextmanager
def reindex(root: Root, name: str, *flags: str) -> Iterator[Reindex]:
    started = Reindex(root, name, *flags)
    try:
        yield started
    finally:
        started.close()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Root:
    root = Root(tmp_path_factory.mktemp("reindexed"))
    for number in range(12):
        root.write(f"{number}.png", number)
    root.publish()
    return root


def test_the_second_leaves_while_the_first_is_at_work(root: Root) -> None:
    with (
        hold_lease(root.store, "the first", seconds=3600, folder=layout.REINDEX),
        reindex(root, "held") as second,
    ):
        summary = second.end()
    assert (summary["status"], summary["exit_code"]) == ("lease-held", 4)
    assert "the first holds lease" in summary["error"]


def test_a_holder_that_was_stopped_past_its_expiry_publishes_nothing(root: Root) -> None:
    root.write("stopped.png", 100)
    before = read_current(root.store)
    short = ("--set", "reindex.lease_seconds=2")
    with reindex(root, "stopped", *short) as first:
        # It has read which release it builds on, and has something to publish.
        first.wait_for("Component Embedder is running")
        first.send(signal.SIGSTOP)
        assert read_current(root.store) == before
        with reindex(root, "waiting", *short, "--wait", str(PATIENCE)) as second:
            summary = second.end()
        assert (summary["status"], summary["exit_code"], summary["base"]) == ("published", 0, before)
        assert summary["counts"]["new"] == 1
        after = read_current(root.store)
        assert summary["release_id"] == after != before
        releases = sorted(path.name for path in (root.serving_root / "releases").iterdir())
        first.send(signal.SIGCONT)
        refused = first.end()
    assert (refused["status"], refused["exit_code"]) == ("stale", 5), refused
    assert "was taken for dead" in refused["error"]
    assert read_current(root.store) == after
    assert sorted(path.name for path in (root.serving_root / "releases").iterdir()) == releases


def test_after_a_kill_anywhere_the_next_one_completes(root: Root) -> None:
    root.reindex()
    before = read_current(root.store)
    root.write("killed.png", 101)
    (root.images / "3.png").unlink()
    for step in ("ImageExampleGen", "Publisher"):
        with reindex(root, f"killed-{step}") as killed:
            killed.wait_for(f"Component {step} is running")
            killed.send(signal.SIGKILL)
            killed.process.wait(PATIENCE)
        assert not pathlib.Path(killed.summary_file).exists()
    # Publisher may have come to its end in the moment before it was killed.
    done = read_current(root.store) != before
    with reindex(root, "next", "--metrics-file", str(root.folder / "reindex.prom")) as last:
        summary = last.end()
    assert summary["status"] == ("unchanged" if done else "published")
    assert summary["counts"]["encoded"] == 0
    assert {"killed.png"} == set(root.items()) - {f"{number}.png" for number in range(12)} - {"stopped.png"}
    assert "3.png" not in root.items()
    metrics = (root.folder / "reindex.prom").read_text()
    assert "lookalike_reindex_success 1.0" in metrics
    assert f'lookalike_reindex_items{{what="items"}} {float(summary["counts"]["items"])}' in metrics
