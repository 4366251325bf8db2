"""How near the gateway comes to the fastest that gRPC in Python, or the encoder, could answer.

  make bench NAME=gateway                  a release of 60,000 items, 64 dimensions
  make bench NAME=gateway SCALE=small      5,000 items, shorter runs

Everything is a process of its own, as in production; a load generator of its own drives gateway and limit in turn
(A B A B ..., medians of 5), and its processor time is told, for it shares the two cores.
  vector queries   against an echo: grpc.aio with the gateway's options and as many processes, which parses the same
                   SearchRequest and builds an answer of the same size; the index is set as in benchmarks/peers.py: the
                   fewest leaves to search with a recall@10 of 0.955
  image batches    64 queries in a BatchSearch, against the SavedModel called in this process on the same images
  image queries    one in a call, 64 in flight, against 1 / (1 / two-hop echo + 1 / SavedModel in batches); the two-hop
                   echo asks another one before it answers
Images are the demo's digits (or those of IMAGES) with an encoder of 28 x 28 grey pixels, and at full scale also JPEGs
of 256 x 256 with one of 64 x 64 colour pixels: the smaller the encoder, the more what surrounds it counts.
CPU and memory are those of the processes that answer: the gateway's, and with images the model server's.
"""

import argparse
import concurrent.futures
import dataclasses
import pathlib
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks._echo_answer import save_answer
from benchmarks._encoders import DIGIT, PHOTO, SavedEncoder, write_encoder
from benchmarks._load import LoadGenerator, median
from benchmarks._photos import make_photos
from benchmarks._processes import Measured, Service, python_of, say, service, started
from benchmarks._releases import DIMENSION, choose_index, make_embeddings, make_items, publish_release, write_body
from benchmarks._results import Goal, arguments, digits, report
from lookalike.retrieval.v1 import retrieval_pb2

RUNS = 5
K = 10
BATCH = 64
IN_FLIGHT = (1, 16, 64)
BATCHES_IN_FLIGHT = (1, 2, 4)


@dataclasses.dataclass(frozen=True)
class Load:
    """What is sent. seconds: of one run. queries: in a call."""

    generator: LoadGenerator
    method: str
    requests: str
    seconds: float
    connections: int
    queries: int = 1

    def run(self, servers: Sequence[Measured], address: str, in_flight: int) -> dict[str, float]:
        """Returns queries a second, p50 and p99 of a call in ms, and CPU microseconds a query of `servers`."""
        before = sum(server.cpu_seconds() for server in servers)
        job = {"target": address, "requests": self.requests, "connections": self.connections}
        figures = self.generator.run(self.method, **job, in_flight=in_flight, seconds=self.seconds)
        used = sum(server.cpu_seconds() for server in servers) - before
        if figures["codes"].keys() != {"OK"}:
            raise RuntimeError(f"{self.method} failed: {figures['codes']}.")
        return {
            "rate": figures["rate"] * self.queries,
            "p50": 1e3 * figures["p50"],
            "p99": 1e3 * figures["p99"],
            "cpu": 1e6 * used / (figures["ok"] * self.queries),
            "generator": figures["cpu"],
        }


def alternate(runs: int, *sides: Callable[[], dict[str, float]]) -> list[list[dict[str, float]]]:
    """Returns the figures of each side: one run each that doesn't count, then A B A B ..."""
    for side in sides:
        side()
    figures: list[list[dict[str, float]]] = [[] for _ in sides]
    for _ in range(runs):
        for side, found in zip(sides, figures, strict=True):
            found.append(side())
    return figures


def ratio(ours: Sequence[dict[str, float]], limit: Sequence[dict[str, float]]) -> float:
    """Returns the median of the ratios of runs that followed each other."""
    return float(np.median([a["rate"] / b["rate"] for a, b in zip(ours, limit, strict=True)]))


def in_process(encoder: SavedEncoder, batches: Sequence[Sequence[bytes]], seconds: float, threads: int) -> float:
    """Returns images a second of the SavedModel in this process, called by some threads at once."""
    begun = time.perf_counter()

    def call(thread: int) -> int:
        count = 0
        while time.perf_counter() - begun < seconds:
            count += len(encoder(batches[(thread + count) % len(batches)]))
        return count

    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        done = sum(pool.map(call, range(threads)))
    return done / (time.perf_counter() - begun)


def in_process_rate(encoder: SavedEncoder, batches: Sequence[Sequence[bytes]], seconds: float) -> dict[str, float]:
    """Returns the better of one thread and two."""
    return {"rate": max(in_process(encoder, batches, seconds / 2, threads) for threads in (1, 2))}


def line(what: str, in_flight: int, figures: Sequence[dict[str, float]], servers: Sequence[Measured]) -> dict[str, Any]:
    """Returns a row of the table."""
    row: dict[str, Any] = {"what": what, "in flight": in_flight or "", "queries/s": median(figures, "rate")}
    if "p50" in figures[0]:
        row |= {"p50 ms": median(figures, "p50"), "p99 ms": median(figures, "p99")}
        row |= {"CPU us/query": median(figures, "cpu"), "MiB": sum(server.peak_mib() for server in servers)}
        row["generator's CPU"] = median(figures, "generator")
    say(", ".join(f"{name} {value:.4g}" if isinstance(value, float) else f"{value}" for name, value in row.items()))
    return row


class Comparison:
    """The measurements, on a running service."""

    def __init__(
        self, running: Service, generator: LoadGenerator, folder: pathlib.Path, seconds: float, processes: int
    ) -> None:
        self._processes = processes
        self._running = running
        self._generator = generator
        self._folder = folder
        self._seconds = seconds
        self._gateway = running.gateway
        self.rows: list[dict[str, Any]] = []
        self.goals: list[Goal] = []

    def vectors(self, vectors: np.ndarray) -> None:
        """Vector queries against the echo."""
        requests = [
            retrieval_pb2.SearchRequest(vector=retrieval_pb2.Vector(values=vector.tolist()), k=K) for vector in vectors
        ]
        load = self._load("Search", "vectors", requests)
        rates: dict[int, tuple[float, float]] = {}
        with (
            started("echo", self._echo(), self._folder) as echo,
            started("ready", self._echo("--ready"), self._folder) as ready,
        ):
            for in_flight in IN_FLIGHT:
                ours, limit, bytes_ready = alternate(
                    RUNS,
                    lambda n=in_flight: load.run([self._gateway], self._gateway.address, n),
                    lambda n=in_flight: load.run([echo], echo.address, n),
                    lambda n=in_flight: load.run([ready], ready.address, n),
                )
                self._add("vector query", in_flight, ours, [self._gateway])
                self._add("  echo", in_flight, limit, [echo])
                self._add("  echo, answer ready as bytes", in_flight, bytes_ready, [ready])
                rates[in_flight] = median(ours, "rate"), ratio(ours, limit)
        best = max(rates, key=lambda n: rates[n][0])
        self._goal(f"vector queries at {best} in flight, of the echo", rates[best][1], 0.7, 0.85)

    def batches(self, encoder: SavedEncoder, images: Sequence[bytes], what: str) -> None:
        """Image queries, 64 in a call, against the SavedModel."""
        batches = _in_batches(images)
        requests = [
            retrieval_pb2.BatchSearchRequest(requests=[retrieval_pb2.SearchRequest(image=i, k=K) for i in batch])
            for batch in batches
        ]
        load = dataclasses.replace(self._load("BatchSearch", f"batches-{what}", requests), queries=BATCH)
        servers = [self._gateway, self._running.model_server]
        best = 0.0
        for in_flight in BATCHES_IN_FLIGHT:
            ours, limit = alternate(
                RUNS,
                lambda n=in_flight: load.run(servers, self._gateway.address, n),
                lambda: in_process_rate(encoder, batches, self._seconds),
            )
            self._add(f"{BATCH} {what} a call", in_flight, ours, servers)
            self._add("  SavedModel in process", 0, limit, [])
            best = max(best, ratio(ours, limit))
        self._goal(f"{what} in batches of {BATCH}, of the SavedModel in process", best, 0.6, 0.8)

    def images(self, encoder: SavedEncoder, images: Sequence[bytes], what: str) -> None:
        """Single image queries against two hops and the SavedModel in batches."""
        batches = _in_batches(images)
        load = self._load("Search", f"images-{what}", [retrieval_pb2.SearchRequest(image=i, k=K) for i in images])
        servers, in_flight = [self._gateway, self._running.model_server], 64
        with (
            started(f"far-echo-{what}", self._echo(), self._folder) as far,
            started(f"near-echo-{what}", self._echo("--hop", far.address), self._folder) as near,
        ):
            ours, hops, limit = alternate(
                RUNS,
                lambda: load.run(servers, self._gateway.address, in_flight),
                lambda: load.run([near, far], near.address, in_flight),
                lambda: in_process_rate(encoder, batches, self._seconds),
            )
            self._add(f"{what}, one a call", in_flight, ours, servers)
            self._add("  two-hop echo", in_flight, hops, [near, far])
        together = [{"rate": 1 / (1 / a["rate"] + 1 / b["rate"])} for a, b in zip(hops, limit, strict=True)]
        self._add("  two-hop echo, then SavedModel in batches", in_flight, together, [])
        self._goal(f"{what} one a call, of two-hop echo and SavedModel", ratio(ours, together), 0.6)

    def _add(self, what: str, in_flight: int, figures: Sequence[dict[str, float]], servers: Sequence[Measured]) -> None:
        self.rows.append(line(what, in_flight, figures, servers))

    def _goal(self, name: str, value: float, goal: float, stretch: float | None = None) -> None:
        self.goals.append(Goal(name, value, goal))
        if stretch is not None:
            self.goals.append(Goal(f"  (stretch) {name}", value, stretch))

    def _load(self, method: str, name: str, requests: Sequence[Any]) -> Load:
        # The kernel gives each connection to one of the processes.
        connections = 1 if self._processes == 1 else 8 * self._processes
        return Load(self._generator, method, self._generator.requests(name, requests), self._seconds, connections)

    def _echo(self, *flags: str) -> list[str]:
        flags = ("--answer", str(self._folder / "answer"), "--processes", str(self._processes), *flags)
        return [python_of("serving"), "-m", "benchmarks._echo", *flags]


def _in_batches(images: Sequence[bytes]) -> list[Sequence[bytes]]:
    return [images[start : start + BATCH] for start in range(0, len(images) - BATCH + 1, BATCH)]


def measure(folder: pathlib.Path, flags: argparse.Namespace) -> tuple[list[dict[str, Any]], list[Goal], dict[str, Any]]:
    """Publishes a release, serves it, and measures; returns rows, goals and facts."""
    small = flags.scale == "small"
    count, seconds = (5_000, 0.5) if small else (60_000, 2.5)
    processes = int(flags.processes or 1)
    files = sorted((flags.images or digits(folder / "digits")).rglob("*.png"))
    chosen = np.random.default_rng(0).permutation(len(files))[: 16 * BATCH]
    kinds = {"digits": (DIGIT, [files[i].read_bytes() for i in chosen])}
    if (not small or flags.photos) and flags.only != "vectors":
        kinds["photos"] = (PHOTO, make_photos(8 * BATCH))
    embeddings, queries = make_embeddings(count, 1000)
    items = make_items(count)
    parameters, recall = choose_index(embeddings, queries)
    say(f"building an index of {count} items: {parameters.leaves_to_search} of {parameters.leaves} leaves")
    body = write_body(folder / "body", items, embeddings, parameters)
    gateway_flags = [] if processes == 1 else ["--processes", str(processes)]
    rows: list[dict[str, Any]] = []
    goals: list[Goal] = []
    method = ""
    with LoadGenerator(folder / "load") as generator:
        for what, (shape, images) in kinds.items():
            logs, root = folder / f"logs-{what}", folder / f"root-{what}"
            encoder = write_encoder(folder / f"encoder-{what}", images, dimension=DIMENSION, shape=shape)
            publish_release(root, folder / f"encoder-{what}", body, items, embeddings)
            with service(root, logs, *gateway_flags) as running:
                answer = save_answer(running.gateway.address, queries[0], K, logs / "answer")
                comparison = Comparison(running, generator, logs, seconds, processes)
                if not rows:
                    method = retrieval_pb2.SearchMethod.Name(answer.method)
                    comparison.vectors(queries)
                if flags.only != "vectors":
                    comparison.batches(encoder, images, what)
                    comparison.images(encoder, images, what)
            rows += comparison.rows
            goals += comparison.goals
    facts = {"items": count, "method": method, "answer_bytes": answer.ByteSize(), "processes": processes}
    return rows, goals, {**facts, "index": parameters.to_dict(), "recall@10": recall}


def main() -> None:
    flags = arguments(
        __doc__,
        processes="of the gateway, and of the echo (default: 1)",
        photos="yes: also at small scale",
        only="vectors: nothing with images",
    )
    with tempfile.TemporaryDirectory() as scratch:
        rows, goals, facts = measure(pathlib.Path(scratch), flags)
    report(
        "gateway-vectors" if flags.only == "vectors" else "gateway",
        flags.scale,
        rows,
        goals if flags.scale == "full" else [],
        **facts,
    )


if __name__ == "__main__":
    main()
