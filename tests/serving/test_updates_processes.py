"""Updates over real gateway processes: one killed in the middle of upserts, and several on one port."""

import pathlib
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from serving.client import Client, Deleted, QueryFailed, Upserted
from tests.serving.collection import Collection
from tests.serving.fake_model_server import FakeModelServer
from tests.serving.gateway_process import GatewayProcess
from tests.serving.loop_thread import LoopThread
from tests.serving.pictures import png

WRITERS = 4
ENOUGH = 40


class Writing(threading.Thread):
    """Upserts one item after the other, and deletes every fourth, until the gateway is gone."""

    def __init__(self, address: str, number: int) -> None:
        super().__init__()
        self._address = address
        self._number = number
        # Item id to the number of its picture; None where it was deleted, and only what was acknowledged.
        self.acknowledged: dict[str, int | None] = {}

    def run(self) -> None:
        with Client(self._address, timeout=20) as client:
            for i in range(10_000):
                name, seed = f"writer-{self._number}-{i}", 1000 + 100 * self._number + i % 100
                try:
                    assert isinstance(client.upsert(name, png(seed)), Upserted)
                    self.acknowledged[name] = seed
                    if i % 4 == 3:
                        assert isinstance(client.delete(name), Deleted)
                        self.acknowledged[name] = None
                except QueryFailed:
                    # What becomes of the one that was under way, nobody was told.
                    self.acknowledged.pop(name, None)
                    return


@pytest.fixture
def encoder(loop: LoopThread) -> Iterator[FakeModelServer]:
    encoder = FakeModelServer(dimension=16)
    loop.run(encoder.start())
    yield encoder
    loop.run(encoder.stop())


@pytest.mark.slow
def test_processes_on_one_port_see_what_each_other_took(encoder: FakeModelServer, tmp_path: pathlib.Path) -> None:
    collection = Collection(tmp_path / "root")
    collection.publish()
    flags = ["--serving-root", str(collection.root), "--encoder", encoder.address, "--allow-updates"]
    with GatewayProcess(tmp_path / "two", *flags, "--processes", "2") as gateway:
        with Client(gateway.address) as client:
            client.wait_until_serving(60)
            for i in range(5):
                client.upsert(f"new-{i}", png(1000 + i))
            client.delete("item-3.png")
        # Each connection is given to one of them.
        for _ in range(12):
            with Client(gateway.address) as client:
                until_checked(client, {**{f"new-{i}": 1000 + i for i in range(5)}, "item-3.png": None})
        writers = {path.parent.name for path in (collection.root / "journal").rglob("*.segment")}
        assert len(writers) == 1


@pytest.mark.slow
def test_what_was_acknowledged_outlives_a_kill(encoder: FakeModelServer, tmp_path: pathlib.Path) -> None:
    collection = Collection(tmp_path / "root")
    collection.publish()
    flags = ["--serving-root", str(collection.root), "--encoder", encoder.address, "--allow-updates"]
    with GatewayProcess(tmp_path / "other", *flags) as other, GatewayProcess(tmp_path / "killed", *flags) as killed:
        for process in (killed, other):
            with Client(process.address) as client:
                client.wait_until_serving(60)
        writers = [Writing(killed.address, number) for number in range(WRITERS)]
        for writer in writers:
            writer.start()
        while min(len(writer.acknowledged) for writer in writers) < ENOUGH // WRITERS:
            assert all(writer.is_alive() for writer in writers), killed.log
            time.sleep(0.01)
        killed.send(signal.SIGKILL)
        killed.wait()
        for writer in writers:
            writer.join()
        acknowledged = {name: seed for writer in writers for name, seed in writer.acknowledged.items()}
        assert len(acknowledged) >= ENOUGH
        with GatewayProcess(tmp_path / "again", *flags) as again, Client(again.address) as client:
            client.wait_until_serving(60)
            # The one that was started after it, at once; the one that was there, within its promise.
            check(client, acknowledged)
        with Client(other.address) as client:
            until_checked(client, acknowledged)


def check(client: Client, acknowledged: dict[str, int | None]) -> None:
    names = list(acknowledged)
    for name, item in zip(names, client.batch_get_items(names[:1000]), strict=False):
        assert (item is None) == (acknowledged[name] is None), name
    for name, seed in list(acknowledged.items())[:: max(1, len(names) // 20)]:
        if seed is not None:
            best = client.search(image=png(seed), k=100).neighbors
            assert best[0].score > 0.9999 and name in [n.item.item_id for n in best]


def until_checked(client: Client, acknowledged: dict[str, int | None]) -> None:
    end = time.monotonic() + 30
    while True:
        try:
            return check(client, acknowledged)
        except AssertionError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)
