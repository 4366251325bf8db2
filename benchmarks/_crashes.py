"""Model server and gateway killed again and again, and started again by a supervisor."""

import contextlib
import dataclasses
import pathlib
import threading
import time
from collections.abc import Sequence
from types import TracebackType

import numpy as np
import numpy.typing as npt

from benchmarks._generations import Generations
from benchmarks._load import LoadGenerator, Trace
from benchmarks._processes import Measured, say, service
from serving.client import Client

# Two queries by vector for one by image.
_IMAGE_EVERY = 3
_RATE = 60.0
_TIMEOUT = 2.0
# Of load after both are back: now nothing may fail.
_CALM_SECONDS = 3.0


@dataclasses.dataclass(frozen=True)
class CrashFigures:
    """What came of it. failed_outside: queries that failed though nothing that they need was being restarted.

    recovery: seconds from a kill to the first query that succeeded, at worst; infinite where none did.
    """

    kills: dict[str, int]
    queries: int
    failed_outside: int
    succeeded: float
    recovery: dict[str, float]


class Supervisor:
    """Starts again what has died, at once; a context manager."""

    def __init__(self, processes: Sequence[Measured]) -> None:
        self._processes = processes
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self._done.wait(0.05):
            for process in self._processes:
                if not process.alive:
                    process.start()

    def __enter__(self) -> "Supervisor":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()


def crash_under_load(
    folder: pathlib.Path,
    generations: Generations,
    *,
    seconds: float,
    recovery_seconds: float,
    every: float = 5.0,
    probability: float = 0.3,
    seed: int = 0,
) -> CrashFigures:
    """Kills each of the two with `probability` every few seconds, for so long, while queries come.

    recovery_seconds: that both may take at most to be back after that; the load goes on until they are.
    """
    with (
        service(generations.root, folder / "logs", "--poll-seconds", "0.2") as running,
        LoadGenerator(folder / "load") as generator,
    ):
        vectors, images = generations.vector_requests(), generations.image_requests()
        by_image = np.arange(len(vectors)) % _IMAGE_EVERY == 0
        requests = [image if by else vector for by, vector, image in zip(by_image, vectors, images, strict=True)]
        job = {"target": running.gateway.address, "requests": generator.requests("crashes", requests)}
        job |= {"rate": _RATE, "timeout": _TIMEOUT, "trace": str(folder / "crashes.npy")}
        stop = folder / "over"
        longest = seconds + recovery_seconds + _CALM_SECONDS
        generator.begin("Search", **job, seconds=longest, stop=str(stop))
        targets = {"model server": running.model_server, "gateway": running.gateway}
        with Supervisor(list(targets.values())), Client(running.gateway.address) as client:
            kills = _kill(targets, seconds, every, probability, seed)
            with contextlib.suppress(TimeoutError):
                client.wait_until_serving(recovery_seconds)
            time.sleep(_CALM_SECONDS)
            stop.touch()
            figures = generator.result()
    calls = Trace(folder / "crashes.npy")
    by_image = by_image[calls.requests]
    # An image needs both; a vector needs only the gateway.
    windows = {
        "model server": _windows(kills["model server"], calls, by_image),
        "gateway": _windows(kills["gateway"], calls, ~by_image),
    }
    gone = _within(calls, windows["gateway"])
    # A gateway that is back must find the encoder again, too.
    away = _within(calls, windows["model server"]) | _within(calls, _windows(kills["gateway"], calls, by_image))
    excused = gone | (by_image & away)
    return CrashFigures(
        kills={name: len(times) for name, times in kills.items()},
        queries=figures["calls"],
        failed_outside=int((~calls.ok & ~excused).sum()),
        succeeded=float(calls.ok.mean()),
        recovery={name: max((end - last for _, last, end in found), default=0.0) for name, found in windows.items()},
    )


def _kill(
    targets: dict[str, Measured], seconds: float, every: float, probability: float, seed: int
) -> dict[str, list[float]]:
    generator = np.random.default_rng(seed)
    kills: dict[str, list[float]] = {name: [] for name in targets}
    start = time.monotonic()
    for beat in range(1, int(seconds / every) + 1):
        time.sleep(max(0.0, start + beat * every - time.monotonic()))
        for name, process in targets.items():
            # In a short run each is killed at least once.
            last_chance = not kills[name] and beat == int(seconds / every)
            if (generator.random() < probability or last_chance) and process.alive:
                kills[name].append(time.monotonic())
                process.kill()
                say(f"{time.monotonic() - start:.0f} s: killed the {name}")
    return kills


def _windows(kills: Sequence[float], calls: Trace, needs: npt.NDArray[np.bool_]) -> list[tuple[float, float, float]]:
    """Returns the time of each kill, of the last one before it was back, and when it was back.

    It is back with the first success of a query that was sent after the kill and needs what was killed.
    """
    good = needs & calls.ok
    windows: list[tuple[float, float, float]] = []
    for kill in kills:
        back = calls.ended[good & (calls.sent > kill)]
        end = float(back.min()) if len(back) else float("inf")
        if windows and kill <= windows[-1][2]:
            windows[-1] = windows[-1][0], kill, end
        else:
            windows.append((kill, kill, end))
    return windows


def _within(calls: Trace, windows: Sequence[tuple[float, float, float]]) -> npt.NDArray[np.bool_]:
    inside = np.zeros(len(calls.sent), bool)
    for begun, _, end in windows:
        inside |= (calls.ended >= begun) & (calls.sent <= end)
    return inside
