"""How time, memory and disk grow with the collection, and what a fan-out over such shards would make of latency.

  make bench NAME=growth                  1 million items, 100,000 of them embedded
  make bench NAME=growth SCALE=small      4,000 items

Embed: the Embedder's job on synthetic pictures of 28 x 28 pixels, as large as MNIST's, through the project's own
untrained network; up to 100,000, because a million would take most of an hour on two cores. Build, load and query:
given embeddings of 64 dimensions in clusters, built by IndexBuilder with its defaults, near-duplicates and search for
parameters among them; the largest collection in four shards, and one as large as such a shard for comparison. Every
stage is a process of its own, and memory the most that it had. Queries are asked one at a time, in one thread.

Then the collection that is as large as a shard is served by a gateway. From the latency of vector queries to it, one at
a time, that of a fan-out over up to 256 such leaves is simulated. Every stage runs once; growth is the exponent
between the smallest and the largest collection: 1 where ten times the items take ten times the seconds.
"""

import argparse
import contextlib
import json
import math
import pathlib
import shutil
import subprocess
import tempfile
from typing import Any

import numpy as np

from benchmarks import _growth
from benchmarks._load import LoadGenerator, Trace
from benchmarks._processes import REPOSITORY, gateway_command, model_server_command, python_of, say, started
from benchmarks._results import Goal, arguments, report
from benchmarks._tail import simulate
from lookalike.retrieval.v1 import retrieval_pb2
from serving.client import Client

EMBEDDED = {"full": (10_000, 30_000, 100_000), "small": (500, 1000)}
# Items and shards.
BUILT = {
    "full": ((10_000, 1), (100_000, 1), (250_000, 1), (1_000_000, 4)),
    "small": ((1000, 1), (4000, 4)),
}
ASKED = {"full": 5000, "small": 200}
LEAF_SECONDS = {"full": 20.0, "small": 1.0}
MOST_GROWTH = 1.05
_QUANTILES = 1001


class Stages:
    """Runs stages, each in a process of its own; with apart=False in this one, which is quicker and tells no memory."""

    def __init__(self, apart: bool) -> None:
        self._apart = apart

    def __call__(self, name: str, *values: object, environment: str = "pipeline") -> dict[str, Any]:
        """Returns what the stage says."""
        texts = [str(value) for value in values]
        if not self._apart:
            return {**_growth.STAGES[name](*texts), "peak MiB": _growth.memory_mib()}
        command = [python_of(environment), "-W", "ignore", "-m", "benchmarks._growth", name, *texts]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=REPOSITORY)
        if done.returncode:
            raise SystemExit(f"{name} failed:\n{done.stderr[-3000:]}")
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        say(f"{name} {' '.join(text for text in texts if '/' not in text)}: {json.dumps(found)[:300]}")
        return found


def embed(stage: Stages, folder: pathlib.Path, encoder: pathlib.Path, count: int) -> dict[str, Any]:
    """Returns the row of embedding `count` pictures."""
    stage("images", folder / "examples", count)
    done = stage("embed", folder / "examples", encoder)
    shutil.rmtree(folder)
    return {
        "items": count,
        "seconds": done["seconds"],
        "us/item": 1e6 * done["seconds"] / count,
        "MiB": done["peak MiB"],
    }


def build(
    stage: Stages, folder: pathlib.Path, encoder: pathlib.Path, count: int, shards: int, asked: int
) -> dict[str, Any]:
    """Returns what building, loading and searching `count` items took; leaves the release in `folder / root`."""
    stage("embeddings", folder / "embeddings", count)
    built = stage("build", folder / "embeddings", folder / "index", shards)
    size = {name: _growth.folder_bytes(folder / "index" / name) / count for name in ("embeddings", "index", "items")}
    stage("release", folder / "embeddings", folder / "index", encoder, folder / "root")
    shutil.rmtree(folder / "index")
    searched = stage("search", folder / "embeddings", folder / "root", asked, environment="serving")
    return {"items": count, "shards": shards, "build": built, "search": searched, "bytes": size}


def built_row(found: dict[str, Any]) -> dict[str, Any]:
    """Returns the columns of the table."""
    build, search, size = found["build"], found["search"], found["bytes"]
    held = (search["peak MiB"] - search["before MiB"]) * 2**20 / found["items"]
    return {
        "items": found["items"],
        "shards": found["shards"],
        "build s": build["seconds"],
        "build MiB": build["peak MiB"],
        "load s": search["load seconds"],
        "gateway MiB": search["peak MiB"],
        "p50 ms": search["p50 ms"],
        "p99 ms": search["p99 ms"],
        "recall": search["recall"],
        "disk B/item": sum(size.values()),
        "memory B/item": held,
    }


def leaf_seconds(folder: pathlib.Path, seconds: float) -> np.ndarray:
    """Returns the latency of vector queries to a gateway with the release, one at a time: float64 `[n]`."""
    queries = np.load(folder / "embeddings" / "queries.npy")
    messages = [retrieval_pb2.SearchRequest(vector=retrieval_pb2.Vector(values=row.tolist()), k=10) for row in queries]
    root, logs = folder / "root", folder / "logs"
    with contextlib.ExitStack() as stack:
        generator = stack.enter_context(LoadGenerator(folder / "load"))
        encoder = stack.enter_context(started("encoder", model_server_command(root), logs))
        leaf = stack.enter_context(started("leaf", gateway_command(root, encoder.address), logs))
        with Client(leaf.address) as client:
            client.wait_until_serving(300, encoder=False)
        job = {"target": leaf.address, "requests": generator.requests("vectors", messages), "in_flight": 1}
        generator.run("Search", **job, seconds=seconds / 4)
        trace = folder / "trace.npy"
        generator.run("Search", **job, seconds=seconds, trace=str(trace))
    calls = Trace(trace)
    return calls.seconds[calls.ok]


def growth(rows: list[dict[str, Any]], column: str) -> float:
    """Returns the exponent of a column between the smallest and the largest collection."""
    first, last = rows[0], rows[-1]
    return math.log(last[column] / first[column]) / math.log(last["items"] / first["items"])


def measure(scratch: pathlib.Path, flags: argparse.Namespace) -> tuple[list[dict], list[Goal], dict[str, Any]]:
    """Returns the rows of all tables, goals and facts."""
    scale = flags.scale
    stage = Stages(apart=scale == "full")
    encoder = scratch / "encoder"
    stage("encoder", encoder)
    embedded = [embed(stage, scratch / f"pictures-{count}", encoder, count) for count in EMBEDDED[scale]]
    built, leaf = [], np.zeros(0)
    for count, shards in BUILT[scale]:
        folder = scratch / f"items-{count}"
        built.append(build(stage, folder, encoder, count, shards, ASKED[scale]))
        if count == BUILT[scale][-2][0]:
            leaf = leaf_seconds(folder, LEAF_SECONDS[scale])
        shutil.rmtree(folder)
    rows = [built_row(found) for found in built]
    tail = simulate(leaf)
    facts = {
        "embed": embedded,
        "build": built,
        "leaf": {
            "calls": len(leaf),
            "ms at quantiles": (1e3 * np.quantile(leaf, np.linspace(0, 1, _QUANTILES))).tolist(),
        },
        "tail": tail,
    }
    facts["growth"] = {
        "embed": growth(embedded, "seconds"),
        **{name: growth(rows, name) for name in ("build s", "load s", "p50 ms", "disk B/item")},
    }
    goals = []
    if scale == "full":
        names = {"embed": "seconds to embed", "build s": "seconds to build", "load s": "seconds to load"}
        names["p50 ms"] = "milliseconds of a query"
        goals = [
            Goal(f"growth of {text}", facts["growth"][name], MOST_GROWTH, at_most=True) for name, text in names.items()
        ]
    table = [{"stage": "embed", **row} for row in embedded]
    table += [{"stage": "build, load, query", **row} for row in rows] + [{"stage": "fan-out", **row} for row in tail]
    return table, goals, facts


def main() -> None:
    flags = arguments(__doc__)
    with tempfile.TemporaryDirectory() as scratch:
        rows, goals, facts = measure(pathlib.Path(scratch), flags)
    report("growth", flags.scale, rows, goals, **facts)


if __name__ == "__main__":
    main()
