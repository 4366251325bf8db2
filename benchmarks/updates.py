"""Upserts, and what they cost the queries beside them.

  make bench NAME=updates                  a release of 60,000 items, 64 dimensions
  make bench NAME=updates SCALE=small      5,000 items, shorter runs

Model server, two gateways on one serving root, and two load generators are processes of their own; all share the cores.
  upserts          acknowledged a second, so many in flight: each decoded, encoded, synced to the disk in the journal,
                   and searched. Their images are the demo's digits (or those of IMAGES)
  queries          by vector, at a fixed rate, alone and while upserts come at UPSERTS a second: A B A B ..., medians of
                   the 99th percentile as a caller feels it, from when the call was due
  visible          seconds from an acknowledgement by one gateway to the first answer of the other that holds the item
"""

import argparse
import pathlib
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks._encoders import DIGIT, write_encoder
from benchmarks._load import LoadGenerator, Trace, median, percentile
from benchmarks._processes import Measured, gateway_command, say, service, started
from benchmarks._releases import DIMENSION, choose_index, make_embeddings, make_items, publish_release, write_body
from benchmarks._results import Goal, arguments, digits, report
from lookalike.retrieval.v1 import retrieval_pb2
from serving.client import Client

K = 10
IN_FLIGHT = (1, 16)
UPSERTS = 50.0
# Of what the gateway can answer alone: the rest is for the upserts, and for the load generators.
SHARE_OF_PEAK = 0.25
RUNS = 5


def upsert_requests(images: Sequence[bytes]) -> list[Any]:
    """Returns a request for each image, each of an item of its own."""
    return [
        retrieval_pb2.UpsertRequest(
            item_id=f"new/{i:06d}.png",
            image=image,
            attributes={"number": retrieval_pb2.AttributeValue(int_value=i)},
            uri=f"file:///data/new/{i:06d}.png",
        )
        for i, image in enumerate(images)
    ]


class Benchmark:
    """The measurements, on a running service. rows, goals: what they found."""

    def __init__(self, gateway: Measured, folder: pathlib.Path, images: Sequence[bytes], seconds: float) -> None:
        self._gateway = gateway
        self._folder = folder
        self._images = images
        self._seconds = seconds
        self.rows: list[dict[str, Any]] = []
        self.goals: list[Goal] = []

    def queries(self, generator: LoadGenerator, upserting: LoadGenerator, queries: np.ndarray) -> None:
        """Vector queries, alone and beside upserts."""
        requests = [
            retrieval_pb2.SearchRequest(vector=retrieval_pb2.Vector(values=query.tolist()), k=K) for query in queries
        ]
        job = {"target": self._gateway.address, "requests": generator.requests("queries", requests)}
        peak = generator.run("Search", **job, in_flight=16, seconds=self._seconds)["rate"]
        rate = SHARE_OF_PEAK * peak
        upserts = {
            "target": self._gateway.address,
            "requests": upserting.requests("upserts", upsert_requests(self._images)),
            "rate": UPSERTS,
            "seconds": self._seconds,
        }
        alone, beside, acknowledged = [], [], []
        for run in range(RUNS + 1):
            # The first one of each doesn't count.
            alone.append(self._felt(generator, job, rate, f"alone-{run}"))
            upserting.begin("Upsert", **upserts)
            beside.append(self._felt(generator, job, rate, f"beside-{run}"))
            acknowledged.append(_checked(upserting.result()))
        for what, runs in (("queries alone", alone), (f"queries beside {UPSERTS:.0f} upserts/s", beside)):
            self._add(what, {name: median(runs[1:], name) for name in runs[0]})
        found = {"rate": median(acknowledged[1:], "rate")}
        self._add("  those upserts", found | {p: 1e3 * median(acknowledged[1:], p) for p in ("p50", "p99")})
        ratio = median([{"p99": b["p99"] / a["p99"]} for a, b in zip(alone[1:], beside[1:], strict=True)], "p99")
        self.goals.append(Goal("p99 of queries beside upserts, of that alone", ratio, 1.5, at_most=True))

    def upserts(self, generator: LoadGenerator) -> None:
        """As many upserts as it takes."""
        requests = generator.requests("upserts", upsert_requests(self._images))
        for in_flight in IN_FLIGHT:
            job = {"target": self._gateway.address, "requests": requests, "in_flight": in_flight}
            runs = [_checked(generator.run("Upsert", **job, seconds=self._seconds)) for _ in range(3)]
            found = {name: 1e3 * median(runs[1:], name) for name in ("p50", "p99")}
            self._add(f"upserts, {in_flight} in flight", {"rate": median(runs[1:], "rate"), **found})

    def visible(self, other: Measured, times: int) -> None:
        """From one gateway to the other."""
        seconds = []
        with Client(self._gateway.address) as one, Client(other.address) as two:
            for i in range(times):
                name = f"seen/{i}.png"
                one.upsert(name, self._images[i])
                acknowledged = time.perf_counter()
                while two.batch_get_items([name]) == [None]:
                    time.sleep(0.002)
                seconds.append(time.perf_counter() - acknowledged)
        self.rows.append(
            {"what": "visible to the other gateway", "p50 s": float(np.median(seconds)), "max s": max(seconds)}
        )
        self.goals.append(Goal("seconds until the other gateway has it, at most", max(seconds), 2.0, at_most=True))

    def _felt(self, generator: LoadGenerator, job: dict[str, Any], rate: float, name: str) -> dict[str, float]:
        trace = self._folder / f"{name}.npy"
        figures = _checked(generator.run("Search", **job, rate=rate, seconds=self._seconds, trace=str(trace)))
        calls = Trace(trace)
        felt = 1e3 * (calls.ended - calls.due)
        return {"rate": figures["rate"], "p50": percentile(felt, 50), "p99": percentile(felt, 99)}

    def _add(self, what: str, found: dict[str, float]) -> None:
        row = {"what": what, "calls/s": found["rate"], "p50 ms": found["p50"], "p99 ms": found["p99"]}
        say(", ".join(f"{name} {value:.4g}" if isinstance(value, float) else str(value) for name, value in row.items()))
        self.rows.append(row)


def _checked(figures: dict[str, Any]) -> dict[str, Any]:
    if figures["codes"].keys() != {"OK"}:
        raise RuntimeError(f"calls failed: {figures['codes']}.")
    return figures


def measure(folder: pathlib.Path, flags: argparse.Namespace) -> tuple[list[dict[str, Any]], list[Goal], dict[str, Any]]:
    """Publishes a release, serves it twice, and measures; returns rows, goals and facts."""
    small = flags.scale == "small"
    count, seconds = (5_000, 1.0) if small else (60_000, 6.0)
    files = sorted((flags.images or digits(folder / "digits")).rglob("*.png"))
    images = [file.read_bytes() for file in files[:2000]]
    embeddings, queries = make_embeddings(count, 1000)
    items = make_items(count)
    parameters, _ = choose_index(embeddings, queries)
    body = write_body(folder / "body", items, embeddings, parameters)
    root = folder / "root"
    write_encoder(folder / "encoder", images, dimension=DIMENSION, shape=DIGIT)
    publish_release(root, folder / "encoder", body, items, embeddings)
    told = ["--allow-updates", "--max-items", "100000", "--advise-items", "100000"]
    with (
        service(root, folder / "logs", *told) as running,
        started("other", gateway_command(root, running.model_server.address), folder / "logs") as other,
        LoadGenerator(folder / "load") as generator,
        LoadGenerator(folder / "upserting") as upserting,
        Client(other.address) as client,
    ):
        client.wait_until_serving(60)
        benchmark = Benchmark(running.gateway, folder, images, seconds)
        benchmark.visible(other, 10 if small else 40)
        benchmark.queries(generator, upserting, queries)
        benchmark.upserts(generator)
    facts = {"items": count, "index": parameters.to_dict(), "upserts a second": UPSERTS, "share of peak": SHARE_OF_PEAK}
    return benchmark.rows, benchmark.goals, facts


def main() -> None:
    flags = arguments(__doc__)
    with tempfile.TemporaryDirectory() as scratch:
        rows, goals, facts = measure(pathlib.Path(scratch), flags)
    report("updates", flags.scale, rows, goals, **facts)


if __name__ == "__main__":
    main()
