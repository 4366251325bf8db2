import multiprocessing
import pathlib
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator

import pytest

from serving.release.lease import LeaseHeld, LeaseLost, hold_lease
from serving.storage import Store, open_store


class Clock:
    """Tells the time that it is set to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Iterator[Store]:
    store = open_store(tmp_path if request.param == "local" else f"memory://{uuid.uuid4().hex}")
    yield store
    store.delete("LEASE")


def lease_files(store: Store) -> list[str]:
    return [stat.path for stat in store.files("LEASE")]


def test_one_at_a_time(store: Store) -> None:
    with hold_lease(store, "first") as lease:
        lease.check()
        with pytest.raises(LeaseHeld, match="first holds lease 1 for another 300 s"), hold_lease(store, "second"):
            pass
    with hold_lease(store, "second") as lease:
        assert lease.number == 2


def test_numbers_only_grow_and_old_files_go(store: Store) -> None:
    numbers = []
    for _ in range(5):
        with hold_lease(store, "me") as lease:
            numbers.append(lease.number)
    assert numbers == [1, 2, 3, 4, 5]
    assert lease_files(store) == ["LEASE/000000000005"]


def test_given_back_after_an_error(store: Store) -> None:
    with pytest.raises(KeyError), hold_lease(store, "first"):
        raise KeyError
    with hold_lease(store, "second"):
        pass


def test_an_expired_lease_is_taken_over_and_its_holder_knows(store: Store) -> None:
    clock = Clock()
    with hold_lease(store, "slow", seconds=60, clock=clock) as slow:
        clock.now += 59
        with pytest.raises(LeaseHeld), hold_lease(store, "other", clock=clock):
            pass
        clock.now += 1
        with pytest.raises(LeaseLost, match="lease 1 of slow has run out after 60 s"):
            slow.check()
        with hold_lease(store, "other", clock=clock) as other:
            assert other.number == 2
            # Even if its clock stood still.
            clock.now -= 60
            with pytest.raises(LeaseLost, match="lease 1 of slow was taken over by lease 2"):
                slow.check()
            with pytest.raises(LeaseLost):
                slow.renew()
            clock.now += 60
    # What the old holder gave back was not the other's lease.
    assert lease_files(store) == ["LEASE/000000000002"]


def test_the_old_holder_does_not_give_back_the_new_ones(store: Store) -> None:
    clock = Clock()
    slow = hold_lease(store, "slow", seconds=60, clock=clock)
    slow.__enter__()
    clock.now += 60
    with hold_lease(store, "other", clock=clock):
        slow.__exit__(None, None, None)
        with pytest.raises(LeaseHeld, match="other holds lease 2"), hold_lease(store, "third", clock=clock):
            pass


def test_renewing_extends(store: Store) -> None:
    clock = Clock()
    with hold_lease(store, "long", seconds=60, clock=clock) as lease:
        for _ in range(10):
            clock.now += 40
            lease.renew()
        with pytest.raises(LeaseHeld, match="for another 60 s"), hold_lease(store, "other", clock=clock):
            pass


def test_waiting(store: Store) -> None:
    first = hold_lease(store, "first")
    first.__enter__()
    threading.Timer(0.3, first.__exit__, (None, None, None)).start()
    with hold_lease(store, "second", wait_seconds=10) as lease:
        assert lease.number == 2
    with hold_lease(store, "third"), pytest.raises(LeaseHeld), hold_lease(store, "fourth", wait_seconds=0.1):
        pass


def test_who_looked_long_ago_does_not_get_an_old_number(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with hold_lease(store, "first"):
        pass
    create = store.create

    def create_late(path: str, data: bytes) -> None:
        # Between looking and creating, others hold leases 2 and 3, and clean up.
        monkeypatch.setattr(store, "create", create)
        for name in ("second", "third"):
            with hold_lease(store, name):
                pass
        create(path, data)

    monkeypatch.setattr(store, "create", create_late)
    with pytest.raises(LeaseHeld, match="taken over by lease 3"), hold_lease(store, "late"):
        pass
    assert lease_files(store) == ["LEASE/000000000003"]


def test_of_many_threads_one_holds(store: Store) -> None:
    held, most, total = [0], [0], [0]
    lock = threading.Lock()

    def work() -> None:
        for _ in range(5):
            try:
                with hold_lease(store, "thread"):
                    with lock:
                        held[0] += 1
                        total[0] += 1
                        most[0] = max(most[0], held[0])
                    time.sleep(0.001)
                    with lock:
                        held[0] -= 1
            except LeaseHeld:
                time.sleep(0.001)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]
    assert total[0] >= 1


HOLD = """
import sys, time
from serving.release.lease import hold_lease
from serving.storage import open_store
with hold_lease(open_store(sys.argv[1]), "victim"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_nobody_waits_for_a_process_of_this_machine_that_was_killed(tmp_path: pathlib.Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"held\n"
    store = open_store(tmp_path)
    with pytest.raises(LeaseHeld, match="victim holds lease 1"), hold_lease(store, "me"):
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    with hold_lease(store, "me") as lease:
        assert lease.number == 2


def test_a_lease_of_another_machine_counts_until_it_runs_out(tmp_path: pathlib.Path) -> None:
    store, clock = open_store(tmp_path), Clock()
    store.write("LEASE/000000000007", b'{"holder": "pod", "expires": 1060, "process": "boot pid:[1] 12345 99"}')
    with pytest.raises(LeaseHeld, match="pod holds lease 7 for another 60 s"), hold_lease(store, "me", clock=clock):
        pass
    clock.now = 1060
    with hold_lease(store, "me", clock=clock) as lease:
        assert lease.number == 8


def test_a_lease_that_was_never_finished_runs_out_too(tmp_path: pathlib.Path) -> None:
    store = open_store(tmp_path)
    store.write("LEASE/000000000001", b"")
    with pytest.raises(LeaseHeld, match="somebody unknown"), hold_lease(store, "me", seconds=300):
        pass
    with hold_lease(store, "me", seconds=300, clock=lambda: time.time() + 301) as lease:
        assert lease.number == 2


def _work(root: str, log: str) -> None:
    store = open_store(root)
    for _ in range(10):
        try:
            with hold_lease(store, "process"), open(log, "a") as handle:
                handle.write("[")
                handle.flush()
                time.sleep(0.001)
                handle.write("]")
        except LeaseHeld:
            time.sleep(0.001)


def test_of_many_processes_one_holds(tmp_path: pathlib.Path) -> None:
    context = multiprocessing.get_context("fork")
    log = tmp_path / "log"
    processes = [context.Process(target=_work, args=(str(tmp_path / "root"), str(log))) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    text = log.read_text()
    assert len(text) >= 2
    assert text == "[]" * (len(text) // 2)
