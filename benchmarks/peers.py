"""Lookalike beside what people would pick instead, on the same embeddings, each through its own client.

  make bench NAME=peers                  60,000 embeddings of 64 dimensions, 10,000 queries
  make bench NAME=peers SCALE=small      5,000 embeddings, 1,000 queries

Each peer is warm, at the fastest of its documented settings with a recall@10 of 0.95 (looked for in this run; the JSON
has what was tried), and alone on both cores. `alone` is one caller; `busy` is eight callers in two processes for those
that cross a process boundary, and a thread for each core for those that are a library. The peers' answers are ids
only; ours are whole items. Ours is asked twice: by `GatheringClient`, our client for programs with many threads, which
sends what they ask for at the same time in one call (each of the two processes has its own, so at most four queries go
together, and a caller alone gains nothing); and by `Client`, which makes a call of each query as the peers' clients do.
A library's `behind a hop` is what would be left of it behind a gRPC echo of our own answers, asked by `Client`. The
peers live in an environment of their own, .venv/bench (1 GB, half a minute).
"""

import argparse
import contextlib
import dataclasses
import json
import pathlib
import statistics
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from benchmarks._echo_answer import save_answer
from benchmarks._encoders import write_encoder
from benchmarks._peer import RECALL, TRUTH, recall
from benchmarks._processes import REPOSITORY, Measured, process_mib, python_of, say, service, started
from benchmarks._queries import QUERIES, VECTORS, K
from benchmarks._releases import (
    DIMENSION,
    choose_index,
    exact_neighbors,
    make_embeddings,
    make_items,
    publish_release,
    write_body,
)
from benchmarks._results import Goal, arguments, digits, report

RUNS = 5
ONE_BY_ONE = "Lookalike, one call a query"
_TRIED = 500
_CALLERS = ((1, 1), (2, 4))
_THREADS = ((1, 1), (1, 2))


@dataclasses.dataclass(frozen=True)
class Scale:
    """count: embeddings. queries: of a run. seconds: that a run may take."""

    count: int
    queries: int
    seconds: float


class Asker:
    """A client process that answers jobs of benchmarks/_queries.py."""

    def __init__(self, command: Sequence[str], file: pathlib.Path) -> None:
        self._file = file
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=REPOSITORY,
        )

    def read(self) -> dict[str, Any]:
        """Returns what it says next."""
        assert self._process.stdout is not None
        # Libraries may print, too.
        while line := self._process.stdout.readline():
            if line.startswith("{"):
                found: dict[str, Any] = json.loads(line)
                return found
        raise RuntimeError(f"{self._process.args} ended with {self._process.wait()}.")

    def begin(self, first: int, end: int, threads: int, seconds: float) -> None:
        """Begins with the queries of these numbers."""
        assert self._process.stdin is not None
        job = {"range": [first, end], "threads": threads, "seconds": seconds, "file": str(self._file)}
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()

    def answers(self) -> tuple[float, Any]:
        """Waits; returns the answers a second, and numbers, seconds and ids of the answers."""
        said = self.read()
        return said["answers"] / said["elapsed"], dict(np.load(self._file))

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def stop(self) -> None:
        """Ends it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


@contextlib.contextmanager
def askers(count: int, command: Sequence[str], folder: pathlib.Path) -> Iterator[tuple[list[Asker], dict[str, Any]]]:
    """Runs client processes; the first one chooses the setting, and the others take it."""
    running: list[Asker] = []
    try:
        running.append(Asker(command, folder / "asked-0.npz"))
        ready = running[0].read()
        for number in range(1, count):
            more = ["--setting", json.dumps(ready["setting"])] if ready["tried"] else []
            running.append(Asker([*command, *more], folder / f"asked-{number}.npz"))
            running[-1].read()
        yield running, ready
    finally:
        for asker in running:
            asker.stop()


def measure_peer(
    name: str, command: Sequence[str], server: Measured | None, folder: pathlib.Path, scale: Scale
) -> dict[str, Any]:
    """Returns the figures of one peer. server: what it asks, None for a library."""
    truth = np.load(folder / TRUTH)
    row: dict[str, Any] = {"peer": name, "is": "a library" if server is None else "a server"}
    shapes = _THREADS if server is None else _CALLERS
    with askers(max(processes for processes, _ in shapes), command, folder) as (running, ready):
        row["setting"] = " ".join(f"{key}={value}" for key, value in ready["setting"].items())
        for label, (processes, threads) in zip(("alone", "busy"), shapes, strict=True):
            rates, latencies, recalls = [], [], []
            for run in range(RUNS + 1):
                # The first run only warms up; a server holds a part of what answers need from the first time on.
                size = scale.queries if run or server is not None else min(scale.queries, 200)
                start = max(0, run - 1) * scale.queries
                part = size // processes
                for number, asker in enumerate(running[:processes]):
                    asker.begin(start + number * part, start + (number + 1) * part, threads, scale.seconds)
                found = [asker.answers() for asker in running[:processes]]
                if run:
                    rates.append(sum(rate for rate, _ in found))
                    latencies += [answers["seconds"] for _, answers in found]
                    recalls += [(answers["ids"], truth[answers["numbers"]]) for _, answers in found]
            seconds = np.concatenate(latencies)
            row[f"{label}, queries/s"] = statistics.median(rates)
            row[f"{label}, p99 ms"] = float(1e3 * np.percentile(seconds, 99))
        ids, true = (np.concatenate(part) for part in zip(*recalls, strict=True))
        row["recall@10"] = recall(ids.tolist(), true)
        row["queries"] = len(ids)
        row["MiB"] = process_mib(running[0].pid) if server is None else server.resident_mib()
        row["build s"] = ready["build_seconds"]
        row["tried"] = ready["tried"]
    shown = ("recall@10", "alone, queries/s", "busy, queries/s", "busy, p99 ms", "MiB")
    say(f"{name} {row['setting']}: " + ", ".join(f"{column} {row[column]:.4g}" for column in shown))
    return row


def measure_ours(folder: pathlib.Path, scale: Scale, flags: argparse.Namespace) -> list[dict[str, Any]]:
    """Returns the figures of the gateway, of our release as a library, and of the echo."""
    root = folder / "root"
    ours = [python_of("serving"), "-m", "benchmarks._ours"]
    with service(root, folder / "logs") as running:
        address = running.gateway.address
        rows = [
            measure_peer(title, [*ours, how, str(folder), "--address", address], running.gateway, folder, scale)
            for title, how in (("Lookalike", "gathering"), (ONE_BY_ONE, "gateway"))
        ]
        save_answer(address, np.load(folder / QUERIES)[0], K, folder / "answer")
    echo = [python_of("serving"), "-m", "benchmarks._echo", "--answer", str(folder / "answer")]
    with started("echo", echo, folder / "logs") as running_echo:
        command = [*ours, "gateway", str(folder), "--address", running_echo.address]
        rows.append(measure_peer("echo", command, running_echo, folder, scale))
        del rows[-1]["recall@10"]
    command = [*ours, "process", str(folder), "--root", str(root)]
    rows.append(measure_peer("Lookalike's release", command, None, folder, scale))
    return rows


def measure_peers(folder: pathlib.Path, scale: Scale, only: str | None) -> list[dict[str, Any]]:
    """Returns the figures of the peers."""
    python = python_of("bench")
    rows: list[dict[str, Any]] = []

    def command(name: str, address: str = "") -> list[str]:
        return [python, "-m", "benchmarks._peer", name, str(folder), *(["--address", address] if address else [])]

    servers = {
        "FAISS behind FastAPI": ("fastapi", [python, "-m", "benchmarks._peer_server", str(folder)]),
        "Chroma's server": ("chroma", [python, "-m", "benchmarks._chroma_server", str(folder / "chroma")]),
    }
    libraries = {
        "pickle and a Python loop": "pickle",
        "FAISS": "faiss",
        "Chroma": "chroma",
        "LanceDB": "lancedb",
        "Milvus Lite": "milvus",
        "Qdrant, local": "qdrant",
    }
    for title, name in libraries.items():
        if only in (None, name):
            say(title)
            rows.append(measure_peer(title, command(name), None, folder, scale))
    for title, (name, server) in servers.items():
        if only in (None, name):
            say(title)
            with started(name, server, folder / "logs") as running:
                rows.append(measure_peer(title, command(name, running.address), running, folder, scale))
    return rows


def prepare(folder: pathlib.Path, scale: Scale, flags: argparse.Namespace) -> None:
    """Writes what all are asked, and publishes our release."""
    say(f"{scale.count} embeddings: queries, true neighbours, release")
    vectors, queries = make_embeddings(scale.count, RUNS * scale.queries)
    np.save(folder / VECTORS, vectors)
    np.save(folder / QUERIES, queries)
    np.save(folder / TRUTH, exact_neighbors(vectors, queries, K))
    files = sorted((flags.images or digits(folder / "digits")).rglob("*.png"))
    write_encoder(folder / "encoder", [files[i].read_bytes() for i in range(3)], dimension=DIMENSION)
    items = make_items(scale.count)
    # Our own setting is chosen as the peers' are.
    parameters, found = choose_index(vectors, queries[:_TRIED])
    say(f"ours: {parameters.leaves_to_search} of {parameters.leaves} leaves, recall {found:.4f}")
    body = write_body(folder / "body", items, vectors, parameters)
    publish_release(folder / "root", folder / "encoder", body, items, vectors)


def compare(rows: list[dict[str, Any]]) -> list[Goal]:
    """Returns the goals, and adds to the libraries what a hop would leave of them."""
    ours, one_by_one, echo = rows[:3]
    goals = [Goal("recall@10", ours["recall@10"], RECALL)]
    for row in rows[3:]:
        if row["is"] == "a library":
            best = max(row["alone, queries/s"], row["busy, queries/s"])
            row["behind a hop, queries/s"] = 1 / (1 / best + 1 / echo["busy, queries/s"])
        else:
            peer = row["peer"]
            goals.append(Goal(f"queries/s, of {peer}", ours["busy, queries/s"] / row["busy, queries/s"], 1))
            goals.append(Goal(f"p99, of {peer}", ours["busy, p99 ms"] / row["busy, p99 ms"], 1, at_most=True))
            rate, p99 = (one_by_one[name] / row[name] for name in ("busy, queries/s", "busy, p99 ms"))
            goals.append(Goal(f"  (one call a query) queries/s, of {peer}", rate, 1))
            goals.append(Goal(f"  (one call a query) p99, of {peer}", p99, 1, at_most=True))
    return goals


def main() -> None:
    flags = arguments(__doc__, only="one peer beside ours: pickle, faiss, fastapi, chroma, lancedb, milvus or qdrant")
    scale = Scale(5_000, 200, 0.7) if flags.scale == "small" else Scale(60_000, 2_000, 15.0)
    subprocess.run([REPOSITORY / "requirements" / "install.sh", "bench"], check=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch)
        prepare(folder, scale, flags)
        rows = [*measure_ours(folder, scale, flags), *measure_peers(folder, scale, flags.only)]
    goals = compare(rows)
    tried = {row["peer"]: row.pop("tried") for row in rows}
    report("peers", flags.scale, rows, goals if flags.scale == "full" else [], tried=tried)


if __name__ == "__main__":
    main()
