"""A library of vector search, built once and asked by jobs: the other side of benchmarks/index.py.

`python -m benchmarks._index_library build NAME FOLDER BUILD` builds and saves an index of FOLDER/vectors.npy, float32
`[N, D]` of unit length; `... search NAME FOLDER BUILD` loads it and answers jobs from stdin, a line of JSON each. BUILD
is JSON: how it is built. `... truth faiss FOLDER/truth.npy` writes the true neighbours of FOLDER/queries.npy, int64
`[Q, 10]`, found by FAISS's brute force. Runs in the bench environment; Lookalike and exact NumPy in the serving one.
"""

import argparse
import concurrent.futures
import json
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]
Setting = dict[str, Any]
K = 10
VECTORS, QUERIES, TUNING, TRUTH = "vectors.npy", "queries.npy", "tuning.npy", "truth.npy"
CORES = 2


class Lookalike:
    """Our own, through serving.index. build: `target`, the recall@10 that its parameters are looked for.

    setting: fields of IndexParameters that a search may change; none for those that were chosen.
    """

    def build(self, vectors: Vectors, build: Setting) -> Setting:
        from serving.index.calibration import calibrate
        from serving.index.kinds import build_index
        from serving.index.parameter_search import search_parameters

        tuning = np.load(build["tuning"])
        begun = time.perf_counter()
        chosen = search_parameters(vectors, tuning, build["target"]).parameters
        found = time.perf_counter()
        index = build_index(vectors, chosen)
        built = time.perf_counter()
        choice = calibrate(index, vectors, tuning, chosen, build["target"])
        self._index = index.tuned(choice.parameters)
        searching = found - begun + time.perf_counter() - built
        parameters = choice.parameters.to_dict()
        return {"seconds": built - found, "search_seconds": searching, "parameters": parameters}

    def save(self, folder: pathlib.Path) -> None:
        self._index.save(folder)

    def load(self, folder: pathlib.Path) -> None:
        from serving.index import load_index, read_parameters

        self._index = load_index(folder, np.load(folder.parent / VECTORS, mmap_mode="r"))
        self._parameters = read_parameters(folder)[0].to_dict()
        self._pool = concurrent.futures.ThreadPoolExecutor(CORES)

    def search(self, queries: Vectors, setting: Setting, threads: int) -> Rows:
        from serving.index import IndexParameters

        index = self._index.tuned(IndexParameters.from_dict(self._parameters | setting))
        # As a gateway is asked: a caller for each core.
        parts = np.array_split(queries, threads)
        return np.concatenate(list(self._pool.map(lambda part: index.search(part, K)[0], parts)))


class ExactNumpy:
    """Every vector compared, in NumPy: serving.index's exact kind."""

    def build(self, vectors: Vectors, build: Setting) -> None:
        pass

    def save(self, folder: pathlib.Path) -> None:
        folder.mkdir()

    def load(self, folder: pathlib.Path) -> None:
        from serving.index import ExactIndex

        self._index = ExactIndex(np.load(folder.parent / VECTORS))
        self._pool = concurrent.futures.ThreadPoolExecutor(CORES)

    def search(self, queries: Vectors, setting: Setting, threads: int) -> Rows:
        parts = np.array_split(queries, threads)
        return np.concatenate(list(self._pool.map(lambda part: self._index.search(part, K)[0], parts)))


class Faiss:
    """FAISS by its index factory. build: `factory`, `efConstruction` of HNSW, `train`: on how many vectors at the most.

    setting: by its ParameterSpace.
    """

    def build(self, vectors: Vectors, build: Setting) -> None:
        import faiss

        # Where there is little to do its threads wait for each other, on a busy machine for half a minute.
        faiss.omp_set_num_threads(CORES if len(vectors) >= 20_000 else 1)
        self._index = faiss.index_factory(vectors.shape[1], build["factory"], faiss.METRIC_INNER_PRODUCT)
        if "efConstruction" in build:
            self._index.hnsw.efConstruction = build["efConstruction"]
        self._index.train(vectors[:: max(1, len(vectors) // build.get("train", len(vectors)))])
        self._index.add(vectors)

    def save(self, folder: pathlib.Path) -> None:
        import faiss

        folder.mkdir()
        faiss.write_index(self._index, str(folder / "index"))

    def load(self, folder: pathlib.Path) -> None:
        import faiss

        self._index = faiss.read_index(str(folder / "index"))

    def search(self, queries: Vectors, setting: Setting, threads: int) -> Rows:
        import faiss

        faiss.omp_set_num_threads(threads)
        if setting:
            text = ",".join(f"{name}={value}" for name, value in setting.items())
            faiss.ParameterSpace().set_index_parameters(self._index, text)
        rows: Rows = self._index.search(queries, K)[1]
        return rows


class Hnswlib:
    """hnswlib. build: `M`, `ef_construction`. setting: `ef`."""

    def build(self, vectors: Vectors, build: Setting) -> None:
        import hnswlib

        self._index = hnswlib.Index("ip", vectors.shape[1])
        self._index.init_index(len(vectors), **build, random_seed=1)
        self._index.add_items(vectors, num_threads=CORES)

    def save(self, folder: pathlib.Path) -> None:
        folder.mkdir()
        self._index.save_index(str(folder / "index"))

    def load(self, folder: pathlib.Path) -> None:
        import hnswlib

        self._index = hnswlib.Index("ip", np.load(folder.parent / VECTORS, mmap_mode="r").shape[1])
        self._index.load_index(str(folder / "index"))

    def search(self, queries: Vectors, setting: Setting, threads: int) -> Rows:
        self._index.set_ef(max(K, setting["ef"]))
        return self._index.knn_query(queries, K, num_threads=threads)[0].astype(np.int64)


class Usearch:
    """usearch. build: arguments of its Index. setting: `expansion_search`."""

    def build(self, vectors: Vectors, build: Setting) -> None:
        from usearch.index import Index

        self._index = Index(ndim=vectors.shape[1], metric="ip", **build)
        self._index.add(np.arange(len(vectors)), vectors, threads=CORES)

    def save(self, folder: pathlib.Path) -> None:
        folder.mkdir()
        self._index.save(str(folder / "index"))

    def load(self, folder: pathlib.Path) -> None:
        from usearch.index import Index

        self._index = Index.restore(str(folder / "index"))

    def search(self, queries: Vectors, setting: Setting, threads: int) -> Rows:
        self._index.expansion_search = setting["expansion_search"]
        return self._index.search(queries, K, threads=threads).keys.astype(np.int64)


LIBRARIES: dict[str, Callable[[], Any]] = {
    "lookalike": Lookalike,
    "exact": ExactNumpy,
    "faiss": Faiss,
    "hnswlib": Hnswlib,
    "usearch": Usearch,
}


def memory_mib() -> float:
    """Returns what this process has in memory, in MiB."""
    fields = dict(line.split(":", 1) for line in pathlib.Path("/proc/self/status").read_text().splitlines())
    return int(fields["VmRSS"].split()[0]) / 1024


def folder_mib(folder: pathlib.Path) -> float:
    """Returns the size of a folder's files, in MiB."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 2**20


def do_build(library: Any, target: pathlib.Path, build: Setting) -> None:
    """Builds and saves, and says what it took."""
    vectors = np.load(target.parent / VECTORS)
    begun = time.perf_counter()
    said = library.build(vectors, {**build, "tuning": str(target.parent / TUNING)} if "target" in build else build)
    built = time.perf_counter() - begun
    library.save(target)
    print(json.dumps({"seconds": built, "mib": folder_mib(target), **(said or {})}), flush=True)


def do_truth(target: pathlib.Path) -> None:
    """Writes the true neighbours."""
    import faiss

    vectors, queries = np.load(target.parent / VECTORS), np.load(target.parent / QUERIES)
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    np.save(target, index.search(queries, K)[1])


def do_jobs(library: Any, target: pathlib.Path) -> None:
    """Loads, says what that took, and answers jobs: {"setting": ..., "threads": ..., "queries": how many}."""
    queries, truth = np.load(target.parent / QUERIES), np.load(target.parent / TRUTH)
    # A library's own code is no part of its index.
    before, begun = memory_mib(), time.perf_counter()
    library.load(target)
    print(json.dumps({"seconds": time.perf_counter() - begun}), flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        asked = queries[: job["queries"]]
        begun = time.perf_counter()
        rows = library.search(asked, job["setting"], job["threads"])
        seconds = time.perf_counter() - begun
        found = sum(len(set(got) & set(true)) for got, true in zip(rows.tolist(), truth.tolist(), strict=False))
        answer = {"rate": len(asked) / seconds, "recall": found / (K * len(asked)), "mib": memory_mib() - before}
        print(json.dumps(answer), flush=True)


def main() -> None:
    """Builds, or answers jobs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("truth", "build", "search"))
    parser.add_argument("name", choices=LIBRARIES)
    parser.add_argument("target", type=pathlib.Path, help="where the index lies, beside the vectors")
    parser.add_argument("build", nargs="?", default="{}")
    arguments = parser.parse_args()
    library = LIBRARIES[arguments.name]()
    if arguments.what == "truth":
        do_truth(arguments.target)
    elif arguments.what == "build":
        do_build(library, arguments.target, json.loads(arguments.build))
    else:
        do_jobs(library, arguments.target)


if __name__ == "__main__":
    main()
