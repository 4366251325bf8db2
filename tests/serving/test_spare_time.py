"""Work that takes only spare time."""

import os
import sys
import threading

import pytest

from serving.spare_time import SpareTime, take_only_spare_time


def test_what_is_run_is_run_in_a_thread_of_its_own() -> None:
    with SpareTime(60) as spare_time:
        thread = spare_time.run(threading.get_ident)
        assert thread != threading.get_ident() and spare_time.run(threading.get_ident) == thread
        with pytest.raises(KeyError):
            spare_time.run(lambda: {}["x"])


@pytest.mark.parametrize("fails", [False, True])
def test_without_patience_left_the_caller_does_it(fails: bool) -> None:
    begun, end = threading.Event(), threading.Event()
    discarded = []

    def wait() -> str:
        if threading.current_thread() is threading.main_thread():
            assert begun.wait(60)
            return "in time"
        begun.set()
        assert end.wait(60)
        if fails:
            raise OSError
        return "late"

    with SpareTime(0.01) as spare_time:
        assert spare_time.run(wait, discarded.append) == "in time"
        assert spare_time.run(threading.get_ident) == threading.get_ident()
        end.set()
    spare_time._pool.shutdown()
    assert discarded == ([] if fails else ["late"])


def test_a_thread_is_idle_to_linux() -> None:
    if sys.platform != "linux":
        return
    found = []

    def work() -> None:
        take_only_spare_time()
        found.append(os.sched_getscheduler(0))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [os.SCHED_IDLE] and os.sched_getscheduler(0) != os.SCHED_IDLE
