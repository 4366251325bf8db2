"""What a filter costs in recall and in time, through the product's own search.

  make bench NAME=filter                 a release of 300,000 items, 64 dimensions, 400 queries
  make bench NAME=filter SCALE=small     25,000 items, 50 queries

At selectivities of 50, 5, 0.5 and 0.05 %, with attributes that are
  independent      of the embeddings: a random number
  correlated       with the query: an item's place along the first principal component; the queries are those that lie
                   at one end of it, and the filter asks for items of that end
  anti-correlated  the same queries, and items of the other end: the nearest of all never match
Recall@10 is against exact comparison of every match. The index is a tree with the fewest leaves to search that have
a recall@10 of 0.99 without a filter. `ms` is the median over the queries of a search that has used the filter before
(its matches are remembered), `first` what the first one takes: it asks SQLite. Medians of 5 rounds, in which the
filters take turns. The last rows ask a gateway over gRPC.
"""

import dataclasses
import functools
import pathlib
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks._encoders import write_encoder
from benchmarks._processes import say, service
from benchmarks._releases import (
    DIMENSION,
    Embeddings,
    choose_index,
    exact_neighbors,
    make_embeddings,
    make_items,
    publish_release,
    write_body,
)
from benchmarks._results import Goal, arguments, digits, report
from serving.client import Client
from serving.release.reader import open_release
from serving.search.filter_language import parse
from serving.search.searcher import Searcher
from serving.search.view import Wanted
from serving.storage import open_store

RUNS = 5
K = 10
RECALL = 0.99
SELECTIVITIES = (0.5, 0.05, 0.005, 0.0005)
# That the chosen leaves have on other queries, too.
_INDEX_RECALL = 0.993
_TRIED = 500
_AT_THE_GATEWAY = ((0.5, "independent"), (0.05, "independent"), (0.05, "anti-correlated"), (0.0005, "independent"))


@dataclasses.dataclass(frozen=True)
class Case:
    """A filter, and which rows match it: bool `[N]`."""

    selectivity: float
    relation: str
    filter: str
    matching: npt.NDArray[np.bool_]


@dataclasses.dataclass(frozen=True)
class Collected:
    """A collection: embeddings, `[N, 64]`; its numbers by name, each `[N]` in [0, 1); and queries, `[Q, 64]`."""

    vectors: Embeddings
    numbers: dict[str, npt.NDArray[np.float64]]
    queries: Embeddings


def collect(count: int, queries: int, seed: int = 0) -> tuple[Collected, Embeddings]:
    """Returns a collection, and queries of no particular place to choose the index by."""
    vectors, asked = make_embeddings(count, 20 * queries + _TRIED, seed)
    tried, asked = asked[:_TRIED], asked[_TRIED:]
    sample = vectors[:20_000]
    centre = sample.mean(axis=0)
    direction = np.linalg.svd(sample - centre, full_matrices=False)[2][0]
    place = np.empty(count)
    place[np.argsort((vectors - centre) @ direction)] = np.arange(count) / count
    # The twentieth that lies farthest at the end that `place` begins with.
    chosen = np.argsort((asked - centre) @ direction)[:queries]
    numbers = {"independent": np.random.default_rng(seed).permutation(count) / count, "place": place}
    return Collected(vectors, numbers, asked[chosen]), tried


def cases(collected: Collected) -> list[Case]:
    """Returns every filter."""
    found = []
    for share in SELECTIVITIES:
        of = {
            "independent": ("independent", "<", share),
            "correlated": ("place", "<", share),
            "anti-correlated": ("place", ">=", 1 - share),
        }
        for relation, (name, sign, limit) in of.items():
            numbers = collected.numbers[name]
            matching = numbers < limit if sign == "<" else numbers >= limit
            found.append(Case(share, relation, f"{name} {sign} {limit!r}", matching))
    return found


def true_neighbors(collected: Collected, case: Case) -> npt.NDArray[np.int64]:
    """Returns the rows of each query's K nearest among what matches: int64 `[Q, K]`."""
    rows = np.flatnonzero(case.matching)
    return rows[exact_neighbors(collected.vectors[rows], collected.queries, K)]


def recall(found: Sequence[Sequence[int]], truth: npt.NDArray[np.int64]) -> float:
    """Returns the share of the true neighbours that were found."""
    return sum(len(set(got) & set(true)) for got, true in zip(found, truth.tolist(), strict=True)) / truth.size


def timed(search: Callable[[Embeddings], Any], queries: Embeddings) -> tuple[list[Any], float, float]:
    """Returns the answers, the first one's milliseconds, and the median of them all."""
    answers, seconds = [], []
    for query in queries:
        begun = time.perf_counter()
        answers.append(search(query))
        seconds.append(time.perf_counter() - begun)
    return answers, 1e3 * seconds[0], 1e3 * statistics.median(seconds)


def measure(collected: Collected, every: Sequence[Case], searcher: Searcher[Any]) -> list[dict[str, Any]]:
    """Returns the rows of the Searcher, the first without a filter."""
    whole = Case(1.0, "no filter", "", np.ones(len(collected.vectors), np.bool_))
    rows: dict[str, dict[str, Any]] = {}
    rounds: dict[str, list[float]] = {}
    for number in range(RUNS):
        for case in (whole, *every):
            wanted = Wanted(K, filter=parse(case.filter) if case.filter else None)
            search = functools.partial(searcher.find, wanted=wanted, exclude=None)
            answers, first, median = timed(search, collected.queries)
            rounds.setdefault(case.filter, []).append(median)
            if number:
                continue
            methods = Counter(found.method.value for found in answers)
            rows[case.filter] = {
                "through": "searcher",
                "selectivity": case.selectivity,
                "attribute": case.relation,
                "matches": int(np.count_nonzero(case.matching)),
                "recall@10": recall([found.rows for found in answers], true_neighbors(collected, case)),
                "first ms": first,
                "by": ", ".join(f"{how} {count / len(answers):.0%}" for how, count in methods.most_common()),
            }
            say(f"{case.relation} {case.selectivity:.2%}: {rows[case.filter]['recall@10']:.4f}, {median:.3f} ms")
    return [{**row, "ms": statistics.median(rounds[name])} for name, row in rows.items()]


def measure_gateway(
    collected: Collected, every: Sequence[Case], root: pathlib.Path, folder: pathlib.Path
) -> list[dict[str, Any]]:
    """Returns the rows of a few filters asked of a gateway, one query at a time."""
    rows = []
    with service(root, folder) as running, Client(running.gateway.address) as client:
        for case in every:
            if (case.selectivity, case.relation) not in _AT_THE_GATEWAY:
                continue

            def search(query: Embeddings, text: str = case.filter) -> list[int]:
                found = client.search(vector=query.tolist(), k=K, filter=text).neighbors
                return [int(neighbor.item.item_id[-10:-4]) for neighbor in found]

            figures = [timed(search, collected.queries) for _ in range(RUNS)]
            rows.append(
                {
                    "through": "gateway",
                    "selectivity": case.selectivity,
                    "attribute": case.relation,
                    "matches": int(np.count_nonzero(case.matching)),
                    "recall@10": recall(figures[0][0], true_neighbors(collected, case)),
                    "first ms": figures[0][1],
                    "ms": statistics.median(median for _, _, median in figures),
                }
            )
    return rows


def main() -> None:
    flags = arguments(__doc__)
    count, queries = (25_000, 50) if flags.scale == "small" else (300_000, 400)
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch)
        say(f"{count} items: embeddings, index, release")
        collected, tried = collect(count, queries)
        parameters, found = choose_index(collected.vectors, tried, _INDEX_RECALL)
        index = f"{parameters.leaves_to_search} of {parameters.leaves} leaves, recall@10 {found:.4f}"
        say(index)
        items = [
            dataclasses.replace(item, attributes={name: float(of[row]) for name, of in collected.numbers.items()})
            for row, item in enumerate(make_items(count))
        ]
        files = sorted((flags.images or digits(folder / "digits")).rglob("*.png"))
        write_encoder(folder / "encoder", [files[i].read_bytes() for i in range(3)], dimension=DIMENSION)
        body = write_body(folder / "body", items, collected.vectors, parameters)
        published = publish_release(folder / "root", folder / "encoder", body, items, collected.vectors)
        release = open_release(open_store(folder / "root"), published.release_id)
        searcher = Searcher(release, lambda item: item, cached_items=10_000)
        searcher.warm()
        every = cases(collected)
        rows = measure(collected, every, searcher)
        searcher.close()
        rows += measure_gateway(collected, every, folder / "root", folder / "logs")
    goals = [
        Goal(f"recall@10, {row['through']}, {row['attribute']}, {row['selectivity']:.2%}", row["recall@10"], RECALL)
        for row in rows
        if row["attribute"] != "no filter"
    ]
    report("filter", flags.scale, rows, goals, count=count, queries=queries, index=index)


if __name__ == "__main__":
    main()
