import threading
import time

import grpc
import numpy as np
import pytest

from serving.model_server.batching import EXPIRED, QUEUE_FULL, BatchingOptions, BatchScheduler
from serving.model_server.errors import ServingError


class Runner:
    """Doubles what it gets, and remembers the sizes. gate: what runs wait for."""

    def __init__(self):
        self.sizes = []
        self.timeouts = []
        self.gate = threading.Event()
        self.started = threading.Event()

    def __call__(self, inputs, timeout):
        self.started.set()
        assert self.gate.wait(20)
        self.sizes.append(len(inputs["x"]))
        self.timeouts.append(timeout)
        if np.any(inputs["x"] < 0):
            raise ServingError(grpc.StatusCode.INVALID_ARGUMENT, "negative")
        return {"y": inputs["x"] * 2}


@pytest.fixture
def runner():
    return Runner()


@pytest.fixture
def schedule(runner):
    schedulers = []

    def schedule(**options):
        schedulers.append(BatchScheduler(BatchingOptions(**options)))
        return schedulers[-1]

    yield schedule
    runner.gate.set()
    for scheduler in schedulers:
        scheduler.close()


def x(*values):
    return {"x": np.array(values, np.float32)}


def occupy(scheduler, runner):
    """Lets a first request run, so that what follows waits."""
    future = scheduler.submit("key", runner, x(0), None)
    assert runner.started.wait(20)
    return future


def test_waiting_requests_run_together_and_padded(runner, schedule):
    scheduler = schedule(max_batch_size=8)
    occupy(scheduler, runner)
    futures = [scheduler.submit("key", runner, x(*range(rows)), None) for rows in (1, 3, 1)]
    runner.gate.set()
    for rows, future in zip((1, 3, 1), futures, strict=True):
        assert future.result(20)["y"].tolist() == [2.0 * row for row in range(rows)]
    assert runner.sizes == [1, 8]


def test_a_batch_is_not_larger_than_allowed(runner, schedule):
    scheduler = schedule(max_batch_size=4)
    occupy(scheduler, runner)
    futures = [scheduler.submit("key", runner, x(1), None) for _ in range(6)]
    runner.gate.set()
    for future in futures:
        future.result(20)
    assert runner.sizes == [1, 4, 2]


def test_a_request_larger_than_a_batch_runs_alone(runner, schedule):
    runner.gate.set()
    assert len(schedule(max_batch_size=4).submit("key", runner, x(*range(7)), None).result(20)["y"]) == 7
    assert runner.sizes == [7]


def test_other_keys_and_other_shapes_do_not_mix(runner, schedule):
    scheduler = schedule()
    occupy(scheduler, runner)
    futures = [
        scheduler.submit("key", runner, x(1), None),
        scheduler.submit("other", runner, x(1), None),
        scheduler.submit("key", runner, {"x": np.ones((1, 2), np.float32)}, None),
    ]
    runner.gate.set()
    for future in futures:
        future.result(20)
    assert runner.sizes == [1, 1, 1, 1]


def test_keys_take_turns(runner, schedule):
    scheduler = schedule(max_batch_size=1)
    occupy(scheduler, runner)
    done = []
    for key in ("a", "a", "a", "b"):
        scheduler.submit(key, runner, x(1), None).add_done_callback(lambda _, key=key: done.append(key))
    last = scheduler.submit("b", runner, x(1), None)
    runner.gate.set()
    last.result(20)
    assert done[:2] == ["a", "b"]


def test_full_queue_refuses_at_once(runner, schedule):
    scheduler = schedule(max_batch_size=2, max_enqueued_batches=2)
    occupy(scheduler, runner)
    futures = [scheduler.submit("key", runner, x(1), None) for _ in range(4)]
    with pytest.raises(ServingError) as refused:
        scheduler.submit("key", runner, x(1), None)
    assert (refused.value.code, refused.value.message) == (grpc.StatusCode.UNAVAILABLE, QUEUE_FULL)
    # Another signature's queue is its own.
    futures.append(scheduler.submit("other", runner, x(1), None))
    runner.gate.set()
    assert all(future.result(20) for future in futures)


def test_expired_in_the_queue(runner, schedule):
    scheduler = schedule()
    occupy(scheduler, runner)
    late = scheduler.submit("key", runner, x(1), time.monotonic() + 0.05)
    in_time = scheduler.submit("key", runner, x(2), time.monotonic() + 60)
    time.sleep(0.1)
    runner.gate.set()
    assert in_time.result(20)["y"].tolist() == [4]
    error = late.exception(20)
    assert (error.code, error.message) == (grpc.StatusCode.RESOURCE_EXHAUSTED, EXPIRED)
    # It took no part in the run.
    assert runner.sizes == [1, 1]


def test_a_batch_has_the_time_of_its_latest(runner, schedule):
    scheduler = schedule()
    occupy(scheduler, runner)
    now = time.monotonic()
    first = [scheduler.submit("key", runner, x(1), now + seconds) for seconds in (30, 60)]
    runner.gate.set()
    first[0].result(20)
    assert runner.timeouts[0] is None
    assert 50 < runner.timeouts[1] <= 60


def test_no_time_limit_where_one_has_none(runner, schedule):
    scheduler = schedule()
    occupy(scheduler, runner)
    futures = [scheduler.submit("key", runner, x(1), deadline) for deadline in (time.monotonic() + 30, None)]
    runner.gate.set()
    futures[0].result(20)
    assert runner.timeouts == [None, None]


def test_a_bad_request_fails_alone(runner, schedule):
    scheduler = schedule()
    occupy(scheduler, runner)
    futures = [scheduler.submit("key", runner, x(value), None) for value in (1, -1, 2)]
    runner.gate.set()
    assert futures[0].result(20)["y"].tolist() == [2]
    assert futures[2].result(20)["y"].tolist() == [4]
    with pytest.raises(ServingError, match="negative"):
        futures[1].result(20)


def test_a_request_that_was_cancelled_does_not_run(runner, schedule):
    scheduler = schedule()
    occupy(scheduler, runner)
    assert scheduler.submit("key", runner, x(1), None).cancel()
    runner.gate.set()
    scheduler.submit("key", runner, x(1), None).result(20)
    assert runner.sizes == [1, 1]


def test_outputs_that_are_not_of_the_inputs_size(schedule, runner):
    future = schedule().submit("key", lambda inputs, timeout: {"y": np.zeros(5)}, x(1), None)
    assert future.exception(20).code == grpc.StatusCode.FAILED_PRECONDITION


def test_a_fault_of_the_runner_costs_its_batch_only(schedule, runner):
    scheduler = schedule()

    def fault(inputs, timeout):
        raise RuntimeError("a bug")

    assert scheduler.submit("key", fault, x(1), None).exception(20).code == grpc.StatusCode.INTERNAL
    runner.gate.set()
    assert scheduler.submit("key", runner, x(1), None).result(20)


def test_the_first_request_waits_for_company(runner, schedule):
    runner.gate.set()
    scheduler = schedule(max_batch_size=2, timeout_micros=10_000_000)
    futures = [scheduler.submit("key", runner, x(1), None) for _ in range(2)]
    for future in futures:
        future.result(5)
    assert runner.sizes == [2]


def test_closing_runs_what_is_queued(runner):
    scheduler = BatchScheduler(BatchingOptions(timeout_micros=10_000_000))
    runner.gate.set()
    future = scheduler.submit("key", runner, x(1), None)
    scheduler.close()
    assert future.result(0)["y"].tolist() == [2]
    with pytest.raises(ServingError, match="shutting down"):
        scheduler.submit("key", runner, x(1), None)


def test_allowed_sizes():
    assert BatchingOptions(max_batch_size=24).allowed_sizes == (1, 2, 4, 8, 16, 24)
    options = BatchingOptions(max_batch_size=1)
    assert options.allowed_sizes == (1,)
    assert options.padded(5) == 5


@pytest.mark.parametrize("field", ["max_batch_size", "max_enqueued_batches", "num_batch_threads"])
def test_options_name_the_limit(field):
    with pytest.raises(ValueError, match=f"{field} must be at least 1, got 0"):
        BatchingOptions(**{field: 0})
