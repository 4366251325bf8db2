import threading

import pytest

from pipeline.lease_keeper import kept_alive
from serving.release import layout
from serving.release.lease import LeaseLost, hold_lease
from serving.storage import LocalStore


class Watched(LocalStore):
    """Tells when a lease is written."""

    def __init__(self, root):
        super().__init__(root)
        self.writes = threading.Semaphore(0)

    def write(self, path, data):
        super().write(path, data)
        self.writes.release()


def test_a_lease_is_renewed_as_often_as_it_takes(tmp_path):
    store = Watched(tmp_path)
    # On a clock of its own, of which each look takes a second: no test must wait for a real one.
    now = iter(range(10**6))
    with hold_lease(store, "test", seconds=60, folder=layout.REINDEX, clock=lambda: float(next(now))) as lease:
        with kept_alive(lease, 0.06):
            for _ in range(3):
                assert store.writes.acquire(timeout=60)
        lease.check()


def test_a_lease_that_was_lost_is_not_taken_again(tmp_path, caplog):
    store = Watched(tmp_path)
    with (
        hold_lease(store, "first", seconds=1e-9, folder=layout.REINDEX) as lease,
        hold_lease(store, "second", folder=layout.REINDEX) as second,
    ):
        with kept_alive(lease, 0.06):
            for thread in threading.enumerate():
                if thread.name == "lease-keeper":
                    thread.join()
        with pytest.raises(LeaseLost):
            lease.check()
        second.check()
    assert "nothing will be published by this run" in caplog.text
