"""How near the gateway comes to the fastest that gRPC in Python, or the encoder, could answer.

  make bench NAME=gateway                  a release of 60,000 items, 64 dimensions
  make bench NAME=gateway SCALE=small      5,000 items, shorter runs

Everything is a process of its own, as in production; a load generator of its own drives gateway and limit in turn
(A B A B ..., medians of 5), and its processor time is told, for it shares the two cores.
  vector queries   against an echo: grpc.aio with the gateway's options and as many processes, which parses the same
                   SearchRequest and builds an answer of the same size
  image batches    64 queries in a BatchSearch, against the SavedModel called in this process on the same images
  image queries    one in a call, 64 in flight, against 1 / (1 / an echo that asks another echo + 1 / SavedModel in batches)
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

from benchmarks._encoders import SavedEncoder, write_encoder
from benchmarks._load import LoadGenerator, median
from benchmarks._processes import Measured, Service, python_of, say, service, started
from benchmarks._releases import DIMENSION, make_embeddings, make_items, publish_release, write_body
from benchmarks._results import Goal, arguments, digits, report
from lookalike.retrieval.v1 import retrieval_pb2
from serving.client import Client

RUNS = 5
K = 10
BATCH = 64
IN_FLIGHT = (1, 16, 64)
BATCHES_IN_FLIGHT = (1, 2, 4)


@dataclasses.dataclass(frozen=True)
class Load:
    """What is sent. queries: in a call. seconds: of one run."""

    generator: LoadGenerator
    method: str
    requests: str
    seconds: float
    queries: int = 1

    def run(self, servers: Sequence[Measured], address: str, in_flight: int) -> dict[str, float]:
        """Returns queries a second, p50 and p99 of a call in ms, and CPU microseconds a query of `servers`."""
        before = sum(server.cpu_seconds() for server in servers)
        job = {"target": address, "requests": self.requests, "in_flight": in_flight, "seconds": self.seconds}
        figures = self.generator.run(self.method, **job)
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
    row: dict[str, Any] = {"what": what, "in flight": in_flight, "queries/s": median(figures, "rate")}
    if "p50" in figures[0]:
        row |= {"p50 ms": median(figures, "p50"), "p99 ms": median(figures, "p99")}
        row |= {"CPU us/query": median(figures, "cpu"), "MiB": sum(server.peak_mib() for server in servers)}
        row["generator's CPU"] = median(figures, "generator")
    say(", ".join(f"{name} {value:.4g}" if isinstance(value, float) else f"{value}" for name, value in row.items()))
    return row


class Comparison:
    """The measurements, on a running service."""

    def __init__(self, running: Service, generator: LoadGenerator, folder: pathlib.Path, seconds: float) -> None:
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
                self.rows.append(line("vector query", in_flight, ours, [self._gateway]))
                self.rows.append(line("  echo", in_flight, limit, [echo]))
                self.rows.append(line("  echo, answer ready as bytes", in_flight, bytes_ready, [ready]))
                rates[in_flight] = median(ours, "rate"), ratio(ours, limit)
        best = max(rates, key=lambda n: rates[n][0])
        self.goals.append(Goal(f"vector queries at {best} in flight, of the echo", rates[best][1], 0.7))
        self.goals.append(Goal("  the same, stretch", rates[best][1], 0.85))

    def batches(self, encoder: SavedEncoder, images: Sequence[bytes]) -> float:
        """Image queries, 64 in a call, against the SavedModel; returns the SavedModel's images a second."""
        batches = [images[start : start + BATCH] for start in range(0, len(images) - BATCH + 1, BATCH)]
        requests = [
            retrieval_pb2.BatchSearchRequest(requests=[retrieval_pb2.SearchRequest(image=i, k=K) for i in batch])
            for batch in batches
        ]
        load = dataclasses.replace(self._load("BatchSearch", "batches", requests), queries=BATCH)
        servers = [self._gateway, self._running.model_server]
        best, limit_rate = 0.0, 0.0
        for in_flight in BATCHES_IN_FLIGHT:
            ours, limit = alternate(
                RUNS,
                lambda n=in_flight: load.run(servers, self._gateway.address, n),
                lambda: in_process_rate(encoder, batches, self._seconds),
            )
            self.rows.append(line(f"{BATCH} image queries a call", in_flight, ours, servers))
            self.rows.append(line("  SavedModel in process", in_flight, limit, []))
            best, limit_rate = max(best, ratio(ours, limit)), max(limit_rate, median(limit, "rate"))
        self.goals.append(Goal("image queries in batches, of the SavedModel in process", best, 0.6))
        self.goals.append(Goal("  the same, stretch", best, 0.8))
        return limit_rate

    def images(self, encoder: SavedEncoder, images: Sequence[bytes]) -> None:
        """Single image queries against two hops and the SavedModel in batches."""
        batches = [images[start : start + BATCH] for start in range(0, len(images) - BATCH + 1, BATCH)]
        requests = [retrieval_pb2.SearchRequest(image=image, k=K) for image in images]
        load = self._load("Search", "images", requests)
        servers, in_flight = [self._gateway, self._running.model_server], 64
        with (
            started("far-echo", self._echo(), self._folder) as far,
            started("near-echo", self._echo("--hop", far.address), self._folder) as near,
        ):
            ours, hops, limit = alternate(
                RUNS,
                lambda: load.run(servers, self._gateway.address, in_flight),
                lambda: load.run([near, far], near.address, in_flight),
                lambda: in_process_rate(encoder, batches, self._seconds),
            )
            self.rows.append(line("image query", in_flight, ours, servers))
            self.rows.append(line("  two-hop echo", in_flight, hops, [near, far]))
        together = [{"rate": 1 / (1 / a["rate"] + 1 / b["rate"])} for a, b in zip(hops, limit, strict=True)]
        self.rows.append(line("  two-hop echo, then SavedModel in batches", in_flight, together, []))
        self.goals.append(Goal("single image queries, of both limits together", ratio(ours, together), 0.6))

    def _load(self, method: str, name: str, requests: Sequence[Any]) -> Load:
        return Load(self._generator, method, self._generator.requests(name, requests), self._seconds)

    def _echo(self, *flags: str) -> list[str]:
        return [python_of("serving"), "-m", "benchmarks._echo", "--answer", str(self._folder / "answer"), *flags]


def measure(folder: pathlib.Path, flags: argparse.Namespace) -> tuple[list[dict[str, Any]], list[Goal], dict[str, Any]]:
    """Publishes a release, serves it, and measures; returns rows, goals and facts."""
    count, seconds = (5_000, 0.5) if flags.scale == "small" else (60_000, 4.0)
    files = sorted((flags.images or digits(folder / "digits")).rglob("*.png"))
    images = [files[i].read_bytes() for i in np.random.default_rng(0).permutation(len(files))[: 16 * BATCH]]
    say(f"publishing {count} items")
    embeddings, queries = make_embeddings(count, 1000)
    items = make_items(count)
    encoder = write_encoder(folder / "encoder", images, dimension=DIMENSION, seed=0)
    body = write_body(folder / "body", items, embeddings)
    root = folder / "root"
    publish_release(root, folder / "encoder", body, items, embeddings)
    with service(root, folder / "logs") as running, LoadGenerator(folder / "load") as generator:
        with Client(running.gateway.address) as client:
            method = client.search(vector=queries[0].tolist(), k=K).method
        save_answer(running.gateway.address, queries[0], folder / "logs" / "answer")
        comparison = Comparison(running, generator, folder / "logs", seconds)
        comparison.vectors(queries)
        comparison.batches(encoder, images)
        comparison.images(encoder, images)
    return comparison.rows, comparison.goals, {"items": count, "method": method}


def save_answer(address: str, vector: np.ndarray, file: pathlib.Path) -> None:
    """Writes what the gateway answers, for the echo to echo."""
    import grpc

    request = retrieval_pb2.SearchRequest(vector=retrieval_pb2.Vector(values=vector.tolist()), k=K)
    with grpc.insecure_channel(address) as channel:
        answer = channel.unary_unary("/lookalike.retrieval.v1.RetrievalService/Search")(request.SerializeToString())
    file.write_bytes(answer)


def main() -> None:
    flags = arguments(__doc__)
    with tempfile.TemporaryDirectory() as scratch:
        rows, goals, facts = measure(pathlib.Path(scratch), flags)
    report("gateway", flags.scale, rows, goals if flags.scale == "full" else [], **facts)


if __name__ == "__main__":
    main()
