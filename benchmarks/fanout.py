"""A root over four leaves against one process with the same shards, and what becomes of answers when a leaf is away.

  make bench NAME=fanout                  a release of 200,000 items in four shards, 64 dimensions
  make bench NAME=fanout SCALE=small      8,000 items, shorter runs

Everything is a process of its own: one model server, one gateway that holds all four shards, four leaves with one each,
and a root. A load generator drives the gateway and the root in turn (A B A B ..., medians of 5) with vector queries.
All share this machine's processors, so what is measured is what a fan-out costs; what it is for, an index that no one
machine can hold or search in time, needs several machines.
Then a leaf is stopped in the midst of load, once by SIGSTOP (its port is open, nothing answers) and once by SIGKILL:
every call must be answered within its deadline of 1 s, from all of the items or from exactly those of the other leaves.
At last one leaf gets a second replica, which stands still for 50 to 200 ms about once a second (SIGSTOP, SIGCONT), as a
collector of garbage or a noisy neighbour makes one; a root that asks the other replica as well where one is slow is
compared with one that doesn't. Queries come at random moments (Poisson), at shares of what the root can do, whatever
has become of those before; their time is counted from the moment that they were due.
"""

import argparse
import contextlib
import pathlib
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from benchmarks._encoders import write_encoder
from benchmarks._load import LoadGenerator, Trace, median, percentile, read_answers
from benchmarks._processes import Measured, gateway_command, model_server_command, say, started
from benchmarks._releases import DIMENSION, choose_index, make_embeddings, make_items, publish_release, write_body
from benchmarks._results import Goal, arguments, digits, report
from lookalike.retrieval.v1 import retrieval_pb2
from serving.client import Client

RUNS = 5
K = 10
LEAVES = 4
IN_FLIGHT = (1, 16, 64)
# What clients give, and what a leaf gets of it.
DEADLINE_SECONDS = 1.0
LEAF_SECONDS = 0.25
_SERVED_SECONDS = 180.0
# For how long the slow replica runs, and stands still.
_RUN_SECONDS, _STILL_SECONDS = (0.6, 1.2), (0.05, 0.2)
# How many queries come meanwhile: shares of what the root can do.
SHARES = (0.2, 0.5)


class Sides:
    """One process, and a root with its leaves, over one serving root. start: a further gateway, by name and flags."""

    def __init__(
        self, one: Measured, root: Measured, leaves: Sequence[Measured], start: Callable[..., Measured]
    ) -> None:
        self.one = one
        self.root = root
        self.leaves = leaves
        self.start = start

    def wait_until_whole(self) -> None:
        """Waits until both answer from all items."""
        self.wait_for(self.one, self.root)

    def wait_for(self, *gateways: Measured) -> None:
        """Waits until these answer from all items."""
        end = time.monotonic() + _SERVED_SECONDS
        for gateway in gateways:
            with Client(gateway.address) as client:
                client.wait_until_serving(_SERVED_SECONDS, encoder=False)
                while client.search(vector=[1.0] * DIMENSION, k=1).degraded:
                    if time.monotonic() > end:
                        raise RuntimeError(f"answers stay degraded:\n{self.root.tail()}")
                    time.sleep(0.05)


@contextlib.contextmanager
def running(serving_root: pathlib.Path, logs: pathlib.Path) -> Any:
    """Runs both sides."""
    with contextlib.ExitStack() as stack:
        encoder = stack.enter_context(started("model-server", model_server_command(serving_root), logs)).address

        def gateway(name: str, *flags: str) -> Measured:
            return stack.enter_context(started(name, gateway_command(serving_root, encoder, *flags), logs))

        one = gateway("one")
        leaves = [gateway(f"leaf-{number}", "--shard-share", f"{number}/{LEAVES}") for number in range(LEAVES)]
        addresses = [leaf.address for leaf in leaves]
        root = gateway("root", "--leaves", *addresses, "--leaf-seconds", str(LEAF_SECONDS))
        sides = Sides(one, root, leaves, gateway)
        sides.wait_until_whole()
        yield sides


class Comparison:
    """The measurements, on running sides."""

    def __init__(self, sides: Sides, generator: LoadGenerator, requests: str, folder: pathlib.Path) -> None:
        self._sides = sides
        self._generator = generator
        self._requests = requests
        self._folder = folder
        self.rows: list[dict[str, Any]] = []
        self.goals: list[Goal] = []

    def compare(self, seconds: float) -> None:
        """Root and leaves against one process."""
        kinds = {"one process": [self._sides.one], "root and 4 leaves": [self._sides.root, *self._sides.leaves]}
        for in_flight in IN_FLIGHT:
            figures: dict[str, list[dict[str, float]]] = {name: [] for name in kinds}
            for run in range(RUNS + 1):
                for name, servers in kinds.items():
                    found = self._run(servers, in_flight, seconds)
                    # The first of each doesn't count.
                    if run:
                        figures[name].append(found)
            one, fanned = figures.values()
            ratios = [b["rate"] / a["rate"] for a, b in zip(one, fanned, strict=True)]
            for name, runs in figures.items():
                row = {"what": name, "in flight": in_flight, "queries/s": median(runs, "rate")}
                row |= {"p50 ms": median(runs, "p50"), "p99 ms": median(runs, "p99")}
                row["CPU us/query"] = median(runs, "cpu")
                if name != "one process":
                    row["of one process"] = float(np.median(ratios))
                self._add(row)

    def stop_a_leaf(self, how: str, stop: Callable[[Measured], None], expected: float, seconds: float) -> None:
        """Load, and a leaf that is stopped in its midst. expected: the share of the items that the others hold."""
        root, leaf = self._sides.root, self._sides.leaves[1]
        trace, answers = self._folder / f"{how}.npy", self._folder / f"{how}.answers"
        job = {"target": root.address, "requests": self._requests, "in_flight": 16, "timeout": DEADLINE_SECONDS}
        self._generator.begin("Search", **job, seconds=2 * seconds, trace=str(trace), answers=str(answers))
        time.sleep(seconds)
        stop(leaf)
        moment = time.monotonic()
        figures = self._generator.result()
        calls = Trace(trace)
        coverages = np.array(
            [retrieval_pb2.SearchResponse.FromString(data).coverage for _, data in read_answers(answers)]
        )
        # float32 on the wire.
        wrong = int((~np.isin(coverages, np.array([1.0, expected], np.float32))).sum())
        after = calls.sent > moment + 1.5
        last = coverages[-max(1, int(after.sum())) :]
        self._add(
            {
                "what": f"a leaf stopped by {how}",
                "in flight": 16,
                "queries/s": float(after.sum()) / max(1e-9, float(calls.ended.max() - moment - 1.5)),
                "p50 ms": 1e3 * percentile(calls.seconds[after], 50),
                "p99 ms": 1e3 * percentile(calls.seconds[after], 99),
                "calls": figures["calls"],
                "not answered in time": figures["calls"] - figures["ok"],
                "longest ms": 1e3 * float(calls.seconds.max()),
                "coverage": float(np.median(last)),
                "wrong coverage": wrong,
            }
        )
        self.goals += [
            Goal(f"{how}: calls not answered in time", float(figures["calls"] - figures["ok"]), 0.0, at_most=True),
            Goal(f"{how}: longest call, s", float(calls.seconds.max()), DEADLINE_SECONDS, at_most=True),
            Goal(f"{how}: answers of another coverage than 1 and {expected:.4f}", float(wrong), 0.0, at_most=True),
        ]

    def hedge(self, seconds: float) -> None:
        """Two replicas of a leaf, of which one stands still now and then: asked by a root that hedges, and one not."""
        leaves = self._sides.leaves
        slow = self._sides.start("replica", "--shard-share", f"1/{LEAVES}")
        addresses = [leaf.address for leaf in leaves]
        addresses[1] += f",{slow.address}"
        roots = {
            name: self._sides.start(f"root-{share}", "--leaves", *addresses, "--hedge-share", share)
            for name, share in (("not hedged", "0"), ("hedged", "0.05"))
        }
        self._sides.wait_for(*roots.values())
        peak = self._run([roots["not hedged"], *leaves, slow], max(IN_FLIGHT), seconds)["rate"]
        # Where nothing stands still hedging only costs, the more the more there is to do.
        self._compare_hedging(roots, [*leaves, slow], SHARES[-1], peak, seconds, still=False)
        with standing_still(slow):
            for share in SHARES:
                self._compare_hedging(roots, [*leaves, slow], share, peak, seconds, still=True)

    def _compare_hedging(
        self,
        roots: dict[str, Measured],
        leaves: Sequence[Measured],
        share: float,
        peak: float,
        seconds: float,
        *,
        still: bool,
    ) -> None:
        figures: dict[str, list[dict[str, float]]] = {name: [] for name in roots}
        for run in range(RUNS + 1):
            for name, root in roots.items():
                # Each pair has the same moments.
                found = self._run_open([root, *leaves], share * peak, 2 * seconds, seed=run)
                # The first of each doesn't count.
                if run:
                    figures[name].append(found)
        what = "a replica that stands still" if still else "two replicas"
        for name, runs in figures.items():
            row = {
                "what": f"{what}, {name}",
                "in flight": f"{share:.0%} of the peak",
                "queries/s": median(runs, "rate"),
            }
            row |= {f"{name} ms": median(runs, name) for name in ("p50", "p99", "p99.9")}
            self._add({**row, "CPU us/query": median(runs, "cpu")})
        not_hedged, hedged = figures.values()
        ratio = float(np.median([b["p99"] / a["p99"] for a, b in zip(not_hedged, hedged, strict=True)]))
        self.rows[-1]["p99, of not hedged"] = ratio
        if still and seconds >= 1:
            # Less holds few of its pauses.
            self.goals.append(Goal(f"p99 with hedging at {share:.0%}, of that without", ratio, 1.0, at_most=True))

    def _run(self, servers: Sequence[Measured], in_flight: int, seconds: float) -> dict[str, float]:
        figures = self._driven(servers, {"in_flight": in_flight, "seconds": seconds})
        return {**figures, "p50": 1e3 * figures["p50"], "p99": 1e3 * figures["p99"]}

    def _run_open(self, servers: Sequence[Measured], rate: float, seconds: float, seed: int) -> dict[str, float]:
        trace = self._folder / "open.npy"
        figures = self._driven(servers, {"rate": rate, "seconds": seconds, "seed": seed, "trace": str(trace)})
        calls = Trace(trace)
        late = 1e3 * (calls.ended - calls.due)
        return {**figures, "p50": percentile(late, 50), "p99": percentile(late, 99), "p99.9": percentile(late, 99.9)}

    def _driven(self, servers: Sequence[Measured], how: dict[str, Any]) -> dict[str, float]:
        """Returns queries per second, seconds, and CPU microseconds of a query, of servers asked through the first."""
        before = sum(server.cpu_seconds() for server in servers)
        figures = self._generator.run("Search", target=servers[0].address, requests=self._requests, **how)
        used = sum(server.cpu_seconds() for server in servers) - before
        if figures["codes"].keys() != {"OK"}:
            raise RuntimeError(f"Search failed: {figures['codes']}.")
        return {
            "rate": figures["rate"],
            "p50": figures["p50"],
            "p99": figures["p99"],
            "cpu": 1e6 * used / figures["ok"],
        }

    def _add(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        say(", ".join(f"{name} {value:.4g}" if isinstance(value, float) else f"{value}" for name, value in row.items()))


@contextlib.contextmanager
def standing_still(process: Measured) -> Iterator[None]:
    """Stops a process for a moment, again and again."""
    end, generator = threading.Event(), np.random.default_rng(0)

    def run() -> None:
        while not end.wait(generator.uniform(*_RUN_SECONDS)):
            process.freeze()
            end.wait(generator.uniform(*_STILL_SECONDS))
            process.thaw()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


def measure(folder: pathlib.Path, flags: argparse.Namespace) -> tuple[list[dict[str, Any]], list[Goal], dict[str, Any]]:
    """Publishes a release, serves it in both ways, and measures; returns rows, goals and facts."""
    small = flags.scale == "small"
    count, seconds = (8_000, 0.3) if small else (200_000, 2.0)
    files = sorted((flags.images or digits(folder / "digits")).rglob("*.png"))
    images = [file.read_bytes() for file in files[:16]]
    embeddings, queries = make_embeddings(count, 1000)
    items = make_items(count)
    # Each shard has an index of its own; they are alike.
    parameters, recall = choose_index(embeddings[: count // LEAVES], queries)
    say(f"building {LEAVES} shards of {count} items: {parameters.kind}")
    body = write_body(folder / "body", items, embeddings, parameters, shards=LEAVES)
    write_encoder(folder / "encoder", images, dimension=DIMENSION)
    published = publish_release(folder / "root", folder / "encoder", body, items, embeddings)
    counts = [shard.count for shard in published.manifest.index.shards]
    expected = (count - counts[1]) / count
    messages = [
        retrieval_pb2.SearchRequest(vector=retrieval_pb2.Vector(values=vector.tolist()), k=K) for vector in queries
    ]
    with LoadGenerator(folder / "load") as generator, running(folder / "root", folder / "logs") as sides:
        differ = same_answers(sides, queries[:100])
        comparison = Comparison(sides, generator, generator.requests("vectors", messages), folder / "load")
        comparison.compare(seconds)
        stopped = 2.0 if small else 5.0
        comparison.stop_a_leaf("SIGSTOP", Measured.freeze, expected, stopped)
        sides.leaves[1].thaw()
        sides.wait_until_whole()
        say("the leaf goes on, and answers are whole again")
        comparison.hedge(seconds)
        comparison.stop_a_leaf("SIGKILL", Measured.kill, expected, stopped)
        memory = {
            "one process": sides.one.peak_mib(),
            "root": sides.root.peak_mib(),
            "leaf": sides.leaves[0].peak_mib(),
        }
    goals = [Goal("answers of the root that differ from those of one process", float(differ), 0.0, at_most=True)]
    facts = {"items": count, "shards": counts, "index": parameters.to_dict(), "recall@10 of a shard": recall}
    return comparison.rows, goals + comparison.goals, {**facts, "peak_mib": memory, "leaf_seconds": LEAF_SECONDS}


def same_answers(sides: Sides, queries: Any) -> int:
    """Returns how many of some queries the two sides answer differently."""
    with Client(sides.one.address) as one, Client(sides.root.address) as root:
        pairs = [[side.search(vector=query.tolist(), k=K).neighbors for side in (one, root)] for query in queries]
    return sum(ours != theirs for ours, theirs in pairs)


def main() -> None:
    flags = arguments(__doc__)
    with tempfile.TemporaryDirectory() as scratch:
        rows, goals, facts = measure(pathlib.Path(scratch), flags)
    report("fanout", flags.scale, rows, goals, **facts)


if __name__ == "__main__":
    main()
