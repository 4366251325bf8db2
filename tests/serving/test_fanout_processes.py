"""A root and four leaves as processes: one leaf killed, one stopped, and releases that take over under load."""

import contextlib
import pathlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from serving.client import Answer, Client, Query, QueryFailed
from serving.release.layout import shard_of
from tests.serving.collection import Collection
from tests.serving.fake_model_server import FakeModelServer
from tests.serving.gateway_process import GatewayProcess
from tests.serving.loop_thread import LoopThread

pytestmark = pytest.mark.slow

SHARDS = 4
# Of what clients give it takes a part; a machine that is slow answers within it.
LEAF_SECONDS = 5.0
DEADLINE_SECONDS = 20.0
VECTOR = np.ones(16)


@pytest.fixture
def encoder(loop: LoopThread) -> Iterator[FakeModelServer]:
    encoder = FakeModelServer()
    encoder.versions = {1: 0, 2: 7}
    loop.run(encoder.start())
    yield encoder
    loop.run(encoder.stop())


class Asking(threading.Thread):
    """Asks until it is told to end. answers: what came. failures: what didn't."""

    def __init__(self, address: str) -> None:
        super().__init__()
        self._address = address
        self._end = threading.Event()
        self.answers: list[Answer] = []
        self.failures: list[QueryFailed] = []

    def run(self) -> None:
        with Client(self._address, timeout=DEADLINE_SECONDS) as client:
            while not self._end.is_set():
                try:
                    self.answers.append(client.search(vector=VECTOR.tolist(), k=1000))
                    [answer] = client.batch_search([Query(vector=VECTOR.tolist(), k=1000)])
                    assert isinstance(answer, Answer)
                    self.answers.append(answer)
                except QueryFailed as error:
                    self.failures.append(error)
                # Leave something of the processors to what is asked.
                self._end.wait(0.02)

    def end(self) -> None:
        self._end.set()
        self.join()


@contextlib.contextmanager
def asking(address: str, count: int = 4) -> Iterator[list[Asking]]:
    threads = [Asking(address) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield threads
    finally:
        for thread in threads:
            thread.end()


@contextlib.contextmanager
def fanned_out(collection: Collection, encoder: FakeModelServer, folder: pathlib.Path) -> Iterator[Any]:
    """Yields the root and the leaves."""
    flags = ["--serving-root", str(collection.root), "--encoder", encoder.address]
    with contextlib.ExitStack() as stack:
        leaves = [
            stack.enter_context(GatewayProcess(folder / f"leaf-{number}", *flags, "--shard-share", f"{number}/4"))
            for number in range(4)
        ]
        told = ["--leaves", *(leaf.address for leaf in leaves), "--leaf-seconds", str(LEAF_SECONDS)]
        root = stack.enter_context(GatewayProcess(folder / "root", *flags, *told))
        with Client(root.address) as client:
            client.wait_until_serving(120)
            until(lambda: not client.search(vector=VECTOR.tolist()).degraded)
        yield root, leaves


def until(condition: Callable[[], bool], seconds: float = 300.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.05)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_every_answer_comes_in_time_when_a_leaf_is_gone(
    encoder: FakeModelServer, tmp_path: pathlib.Path, how: signal.Signals
) -> None:
    collection = Collection(tmp_path / "root")
    collection.publish(shards=SHARDS)
    names = set(collection.images)
    there = {name for name in names if shard_of(name, SHARDS) != 2}
    with fanned_out(collection, encoder, tmp_path) as (root, leaves), asking(root.address) as threads:
        until(lambda: all(len(thread.answers) > 20 for thread in threads))
        leaves[2].send(how)
        until(lambda: all(thread.answers[-1].degraded for thread in threads))
        counts = [len(thread.answers) for thread in threads]
        until(lambda: all(len(t.answers) > count + 20 for t, count in zip(threads, counts, strict=True)))
        if how is signal.SIGSTOP:
            leaves[2].send(signal.SIGCONT)
            until(lambda: not any(thread.answers[-1].degraded for thread in threads))
    coverage = float(np.float32(len(there) / len(names)))
    for thread in threads:
        assert thread.failures == []
        for answer in thread.answers:
            found = {neighbor.item.item_id for neighbor in answer.neighbors}
            assert (found, answer.coverage, answer.degraded) in [(names, 1.0, False), (there, coverage, True)]


def test_releases_take_over_under_load_and_no_answer_is_of_two(
    encoder: FakeModelServer, tmp_path: pathlib.Path
) -> None:
    collection = Collection(tmp_path / "root")
    releases = [collection.publish(shards=SHARDS)]
    with (
        fanned_out(collection, encoder, tmp_path) as (root, _),
        asking(root.address, 2) as threads,
        Client(root.address) as client,
    ):
        releases.append(collection.publish(seed=7, count=30, shards=3))
        until(lambda: client.get_release().release_id == releases[-1])
        counts = [len(thread.answers) for thread in threads]
        until(lambda: all(len(t.answers) > count + 4 for t, count in zip(threads, counts, strict=True)))
    expected = {
        release: [n for n, _ in collection.nearest(VECTOR / 4, 1000, release_id=release)] for release in releases
    }
    for thread in threads:
        assert thread.failures == []
        for answer in thread.answers:
            assert [neighbor.item.item_id for neighbor in answer.neighbors] == expected[answer.release_id]
            assert answer.encoder_version == 1 + releases.index(answer.release_id)
        seen = [releases.index(answer.release_id) for answer in thread.answers]
        assert seen == sorted(seen) and set(seen) == {0, 1}
