"""Hot swaps of encoder and index under load."""

import concurrent.futures
import dataclasses
import pathlib
import time

import numpy as np

from benchmarks._generations import Generations
from benchmarks._load import LoadGenerator, Trace, percentile
from benchmarks._processes import Service, say, service
from serving.client import Client
from serving.spare_time import take_only_spare_time

# An image in eight queries.
_IMAGE_EVERY = 8
_SERVED_SECONDS = 60.0


@dataclasses.dataclass(frozen=True)
class SwapFigures:
    """What came of it. failed: by code. wrong: what is wrong with which answer. Times are seconds, memory MiB."""

    swaps: int
    rate: float
    queries: int
    failed: dict[str, int]
    checked: int
    wrong: list[str]
    releases_seen: int
    swap_seconds: float
    steady_p99: float
    swap_p99: float
    resident_early: float
    resident_late: float
    generator_cpu: float
    worst_lag: float


def swap_under_load(
    folder: pathlib.Path,
    generations: Generations,
    *,
    early: int,
    queries: int,
    steady_seconds: float,
    least_period: float,
    share_of_peak: float = 0.5,
) -> SwapFigures:
    """Serves one generation after the other while queries come at half of what the service can answer.

    early: the swap after which memory is compared with that at the end. queries: at least so many while swapping.
    steady_seconds: of measuring the peak, and then the same load without swaps. least_period: seconds between swaps.
    """
    swaps = len(generations.all) - 1
    with (
        service(generations.root, folder / "logs", "--poll-seconds", "0.2") as running,
        LoadGenerator(folder / "load") as generator,
        Client(running.gateway.address) as client,
    ):
        vectors, images = generations.vector_requests(), generations.image_requests()
        kinds = [("image" if i % _IMAGE_EVERY == 0 else "vector", i % len(vectors)) for i in range(8 * len(vectors))]
        requests = generator.requests("mixed", [(images if k == "image" else vectors)[q] for k, q in kinds])
        job = {"target": running.gateway.address, "requests": requests}
        generator.run("Search", **job, in_flight=16, seconds=1.0)
        peak = generator.run("Search", **job, in_flight=16, seconds=steady_seconds)["rate"]
        rate = share_of_peak * peak
        say(f"peak {peak:.0f} queries/s; steady at {rate:.0f}")
        before = folder / "steady.npy"
        generator.run("Search", **job, rate=rate, seconds=steady_seconds, trace=str(before))

        period = max(least_period, 1.1 * queries / rate / swaps)
        trace, answers = folder / "swaps.npy", folder / "swaps.answers"
        done = folder / "swapped"
        load = {"rate": rate, "seconds": 4 * period * swaps + 60, "stop": str(done), "seed": 1}
        generator.begin("Search", **job, **load, trace=str(trace), answers=str(answers))
        # A publisher has a machine of its own: here it takes what those leave who answer.
        with concurrent.futures.ThreadPoolExecutor(1, initializer=take_only_spare_time) as publisher:
            windows, memory = _swap(running, publisher, generations, client, swaps, period)
        done.touch()
        figures = generator.result()
    steady, calls = Trace(before), Trace(trace)
    swapping = np.zeros(len(calls.sent), bool)
    for begun, served in windows:
        swapping |= (calls.ended >= begun) & (calls.due <= served + 0.5)
    say(f"checking {figures['ok']} answers")
    checked, wrong = generations.wrong_answers(answers, kinds)
    return SwapFigures(
        swaps=int(sum(served <= calls.due.max() for _, served in windows)),
        rate=rate,
        queries=figures["calls"],
        failed={code: count for code, count in figures["codes"].items() if code != "OK"},
        checked=checked,
        wrong=wrong,
        releases_seen=len(windows) + 1,
        swap_seconds=float(np.median([served - begun for begun, served in windows])),
        # Latency as the caller feels it: from when the call was due.
        steady_p99=percentile((steady.ended - steady.due)[steady.ok], 99),
        swap_p99=percentile((calls.ended - calls.due)[swapping & calls.ok], 99),
        resident_early=memory[min(early, swaps) - 1],
        resident_late=memory[-1],
        generator_cpu=figures["cpu"],
        worst_lag=figures["worst_lag"],
    )


def _swap(
    running: Service,
    publisher: concurrent.futures.Executor,
    generations: Generations,
    client: Client,
    swaps: int,
    period: float,
) -> tuple[list[tuple[float, float]], list[float]]:
    """Returns of each swap when it began and was served, and the gateway's memory when it was over."""
    windows: list[tuple[float, float]] = []
    memory: list[float] = []
    start = time.monotonic()
    for swap in range(swaps):
        time.sleep(max(0.0, start + (swap + 0.5) * period - time.monotonic()))
        begun = time.monotonic()
        wanted = publisher.submit(generations.advance).result().release_id
        while client.get_release().release_id != wanted:
            if time.monotonic() > begun + _SERVED_SECONDS:
                raise RuntimeError(f"swap {swap + 1} is not served:\n{running.gateway.tail()}")
            time.sleep(0.05)
        windows.append((begun, time.monotonic()))
        # What was freed with the old one is only known once its last query has ended.
        time.sleep(min(0.5, period / 4))
        memory.append(running.gateway.resident_mib())
        if swaps <= 10 or (swap + 1) % 10 == 0:
            say(f"swap {swap + 1}: {windows[-1][1] - begun:.2f} s, {memory[-1]:.0f} MiB")
    return windows, memory
