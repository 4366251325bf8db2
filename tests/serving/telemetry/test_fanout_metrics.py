"""What a root tells of its leaves."""

import pathlib
import time
import urllib.request
from collections.abc import Callable

import numpy as np
import pytest

from serving.gateway.options import Monitoring
from serving.release.layout import shard_of
from tests.serving.collection import Collection
from tests.serving.fanned_out import FannedOut
from tests.serving.loop_thread import LoopThread
from tests.serving.telemetry.monitored import Scrape

ONE = [1.0] * 16


def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.02)


def test_calls_coverage_and_replicas(loop: LoopThread, tmp_path: pathlib.Path) -> None:
    file = tmp_path / "metrics-port"
    collection = Collection(tmp_path / "root")
    collection.publish(shards=2)
    options = {"monitoring": Monitoring(metrics_port=0, metrics_port_file=str(file))}
    with FannedOut(loop, collection, of=2, replicas=2, root=options, fan_out={"min_coverage": 0.3}) as fanned:

        def scrape() -> Scrape:
            with urllib.request.urlopen(f"http://127.0.0.1:{int(file.read_text())}/metrics", timeout=30) as response:
                return Scrape(response.read().decode())

        fanned.wait_until_whole()
        until(lambda: scrape().value("lookalike_leaf_replicas_up") == 4)
        before = scrape()
        for _ in range(7):
            fanned.client.search(vector=ONE)
        since = scrape().since(before)
        # A second replica may have been asked now and then.
        assert since.value("lookalike_leaf_seconds_count", outcome="ok") >= 14
        assert since.value("lookalike_coverage_count") == 7
        assert since.value("lookalike_coverage_bucket", le="0.999") == 0

        fanned.stop_leaf(1, 0)
        until(lambda: scrape().value("lookalike_leaf_replicas_up", leaf="1/2") == 1)
        assert not fanned.client.search(vector=ONE).degraded
        fanned.stop_leaf(1, 1)
        until(lambda: scrape().value("lookalike_leaf_replicas_up", leaf="1/2") == 0)
        before = scrape()
        coverage = fanned.client.search(vector=ONE).coverage
        held = [name for name in collection.images if shard_of(name, 2) == 0]
        assert coverage == pytest.approx(np.float32(len(held) / len(collection.images)))
        since = scrape().since(before)
        assert since.value("lookalike_coverage_sum") == pytest.approx(coverage)
        # Who is known to be away isn't asked.
        assert since.value("lookalike_leaf_seconds_count", leaf="1/2") == 0
