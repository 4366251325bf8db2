"""Asks one query after the other, in threads, and takes the time: the same loop around every peer's client.

Runs in any environment: it needs NumPy and nothing else.
"""

import concurrent.futures
import json
import pathlib
import sys
import time
from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt

K = 10
QUERIES = "queries.npy"
VECTORS = "vectors.npy"
Search = Callable[[npt.NDArray[np.float32]], list[int]]


def ask(
    search: Search, queries: npt.NDArray[np.float32], numbers: Iterable[int], threads: int, seconds: float
) -> list[tuple[int, float, list[int]]]:
    """Asks the queries of these numbers, for at most so long; returns number, seconds and ids of each."""
    left = iter(list(numbers))
    end = time.perf_counter() + seconds
    answers: list[tuple[int, float, list[int]]] = []

    def caller(_: int) -> None:
        # A list's iterator may be shared: each number is given out once.
        for number in left:
            begun = time.perf_counter()
            ids = search(queries[number])
            done = time.perf_counter()
            answers.append((number, done - begun, ids))
            if done > end:
                return

    if threads == 1:
        caller(0)
    else:
        with concurrent.futures.ThreadPoolExecutor(threads) as pool:
            list(pool.map(caller, range(threads)))
    return answers


def do_jobs(search: Search, folder: pathlib.Path, ready: dict[str, object]) -> None:
    """Says that it is ready, then does jobs from stdin, a line of JSON each; the answers go to files."""
    queries = np.load(folder / QUERIES)
    print(json.dumps(ready), flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        begun = time.perf_counter()
        answers = ask(search, queries, range(*job["range"]), job["threads"], job["seconds"])
        elapsed = time.perf_counter() - begun
        numbers = np.array([number for number, _, _ in answers], np.int64)
        seconds = np.array([value for _, value, _ in answers], np.float64)
        ids = np.array([(list(ids) + [-1] * K)[:K] for _, _, ids in answers], np.int64).reshape(-1, K)
        np.savez(job["file"], numbers=numbers, seconds=seconds, ids=ids)
        print(json.dumps({"elapsed": elapsed, "answers": len(answers)}), flush=True)
