"""What people would pick instead: each with its own client, in the bench environment.

`python -m benchmarks._peer NAME FOLDER [--address HOST:PORT]` finds the fastest of the settings that its documentation
advises with a recall of 0.95, says so on stdout, and then answers jobs of benchmarks/_queries.py. FOLDER holds the
vectors, float32 `[N, D]`, of which the ids are the rows, queries, and their true neighbours.
"""

import argparse
import json
import pathlib
import pickle
import time
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks._queries import QUERIES, VECTORS, K, Search, ask, do_jobs

Vectors = npt.NDArray[np.float32]
Setting = dict[str, Any]
RECALL = 0.95
TRUTH = "truth.npy"
_TRIED_QUERIES = 500
# So that it holds on the other queries, too.
_MARGIN = 0.005
_TRIED_SECONDS = 5.0


class PickleLoop:
    """The paper lineage's own way: a pickled dictionary, and a Python loop over it for each query.

    As in A. Rosebrock's "Autoencoders for Content-based Image Retrieval", which was published with it.
    """

    settings: tuple[Setting, ...] = ({},)

    def __init__(self, vectors: Vectors, folder: pathlib.Path, address: str) -> None:
        file = folder / "index.pickle"
        if not file.exists():
            file.write_bytes(pickle.dumps({"indexes": list(range(len(vectors))), "features": list(vectors)}))
        self._index = pickle.loads(file.read_bytes())

    def search(self, setting: Setting) -> Search:
        features = self._index["features"]

        def search(vector: Vectors) -> list[int]:
            results = []
            for i in range(len(features)):
                results.append((np.linalg.norm(vector - features[i]), i))
            return [i for _, i in sorted(results)[:K]]

        return search


class Faiss:
    """FAISS in process: HNSW, what its wiki advises below a million vectors where memory is no concern; or flat."""

    settings = ({"index": "flat"}, *({"index": "hnsw", "efSearch": ef} for ef in (16, 32, 64, 128, 256)))

    def __init__(self, vectors: Vectors, folder: pathlib.Path, address: str) -> None:
        import faiss

        # Callers are as many as cores.
        faiss.omp_set_num_threads(2)
        self._hnsw = faiss.IndexHNSWFlat(vectors.shape[1], 32, faiss.METRIC_INNER_PRODUCT)
        self._hnsw.hnsw.efConstruction = 200
        self._hnsw.add(vectors)
        self._flat = faiss.IndexFlatIP(vectors.shape[1])
        self._flat.add(vectors)
        faiss.omp_set_num_threads(1)

    def search(self, setting: Setting) -> Search:
        index = self._flat
        if setting["index"] == "hnsw":
            index = self._hnsw
            index.hnsw.efSearch = setting["efSearch"]

        def search(vector: Vectors) -> list[int]:
            return index.search(vector[None], K)[1][0].tolist()

        return search


class FastApi:
    """FAISS behind FastAPI (benchmarks/_peer_server.py), asked by urllib3: JSON over a connection that is kept."""

    settings = Faiss.settings

    def __init__(self, vectors: Vectors, folder: pathlib.Path, address: str) -> None:
        import urllib3

        self._pool = urllib3.HTTPConnectionPool(address, maxsize=16, timeout=30)

    def search(self, setting: Setting) -> Search:
        query = "&".join(f"{name}={value}" for name, value in setting.items())
        self._pool.request("POST", f"/setting?{query}")

        def search(vector: Vectors) -> list[int]:
            answer = self._pool.request("POST", "/search", json={"vector": vector.tolist(), "k": K})
            ids: list[int] = answer.json()["ids"]
            return ids

        return search


class Chroma:
    """Chroma in process, on disk, or with an address its own server on the same folder."""

    settings = tuple({"ef_search": ef} for ef in (32, 64, 128, 256, 512))

    def __init__(self, vectors: Vectors, folder: pathlib.Path, address: str) -> None:
        import chromadb

        if address:
            host, port = address.split(":")
            client = chromadb.HttpClient(host=host, port=int(port))
        else:
            client = chromadb.PersistentClient(str(folder / "chroma"))
        names = [collection.name for collection in client.list_collections()]
        if "images" in names:
            self._collection = client.get_collection("images", embedding_function=None)
            return
        hnsw = {"space": "cosine", "ef_construction": 200, "max_neighbors": 32}
        self._collection = client.create_collection("images", configuration={"hnsw": hnsw}, embedding_function=None)
        size = client.get_max_batch_size()
        for start in range(0, len(vectors), size):
            rows = range(start, min(start + size, len(vectors)))
            self._collection.add(ids=[str(row) for row in rows], embeddings=vectors[rows.start : rows.stop])

    def search(self, setting: Setting) -> Search:
        self._collection.modify(configuration={"hnsw": setting})

        def search(vector: Vectors) -> list[int]:
            found = self._collection.query(query_embeddings=[vector], n_results=K, include=["distances"])
            return [int(i) for i in found["ids"][0]]

        return search


class LanceDb:
    """LanceDB, in process, on disk. Below 100,000 rows its documentation holds an index for unnecessary."""

    settings = (
        {"index": "flat"},
        *({"index": "IVF_FLAT", "nprobes": n} for n in (8, 16, 32)),
        *({"index": "IVF_HNSW_SQ", "nprobes": n, "refine_factor": 5} for n in (1, 4)),
    )

    def __init__(self, vectors: Vectors, folder: pathlib.Path, address: str) -> None:
        import lancedb
        import pyarrow

        column = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(vectors.ravel()), vectors.shape[1])
        rows = pyarrow.table({"id": np.arange(len(vectors)), "vector": column})
        self._table = lancedb.connect(str(folder / "lance")).create_table("images", rows, mode="overwrite")
        self._partitions = max(1, round(len(vectors) ** 0.5 / 4))
        self._index = "flat"

    def search(self, setting: Setting) -> Search:
        from lancedb.index import HnswSq, IvfFlat

        kind = setting["index"]
        if kind not in ("flat", self._index):
            config: Any = HnswSq(distance_type="cosine", num_partitions=max(1, self._partitions // 8))
            if kind == "IVF_FLAT":
                config = IvfFlat(distance_type="cosine", num_partitions=self._partitions)
            self._table.create_index("vector", config=config, replace=True)
            self._index = kind

        def search(vector: Vectors) -> list[int]:
            query = self._table.search(vector).distance_type("cosine").select(["id"]).limit(K)
            query = query.bypass_vector_index() if kind == "flat" else query.nprobes(setting["nprobes"])
            if "refine_factor" in setting:
                query = query.refine_factor(setting["refine_factor"])
            ids: list[int] = query.to_arrow()["id"].to_pylist()
            return ids

        return search


class MilvusLite:
    """Milvus Lite: its server in this process, its client over a socket."""

    settings = (
        {"index": "FLAT"},
        *({"index": "IVF_FLAT", "nprobe": n} for n in (8, 16, 32)),
        *({"index": "HNSW", "ef": ef} for ef in (16, 64, 128)),
    )

    def __init__(self, vectors: Vectors, folder: pathlib.Path, address: str) -> None:
        from pymilvus import MilvusClient

        self._vectors = vectors
        # One file for each process: it can't be shared.
        self._client = MilvusClient(str(folder / "milvus.db"))

    def search(self, setting: Setting) -> Search:
        kind = setting["index"]
        if not self._client.has_collection(kind):
            self._create(kind)
        parameters = {"params": {name: value for name, value in setting.items() if name != "index"}}

        def search(vector: Vectors) -> list[int]:
            found = self._client.search(kind, [vector], limit=K, search_params=parameters)
            return [hit["id"] for hit in found[0]]

        return search

    def _create(self, kind: str) -> None:
        from pymilvus import DataType

        lists = max(1, round(4 * len(self._vectors) ** 0.5))
        build = {"FLAT": {}, "IVF_FLAT": {"nlist": lists}, "HNSW": {"M": 32, "efConstruction": 200}}[kind]
        schema = self._client.create_schema(auto_id=False)
        schema.add_field("id", DataType.INT64, is_primary=True)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=self._vectors.shape[1])
        index = self._client.prepare_index_params()
        index.add_index("vector", index_type=kind, metric_type="COSINE", params=build)
        self._client.create_collection(kind, schema=schema, index_params=index)
        for start in range(0, len(self._vectors), 1000):
            part = self._vectors[start : start + 1000]
            self._client.insert(kind, [{"id": start + i, "vector": vector} for i, vector in enumerate(part)])
        self._client.flush(kind)
        self._client.load_collection(kind)


class Qdrant:
    """Qdrant's local mode: in process, in memory, every vector compared."""

    settings: tuple[Setting, ...] = ({},)

    def __init__(self, vectors: Vectors, folder: pathlib.Path, address: str) -> None:
        from qdrant_client import QdrantClient, models

        self._client = QdrantClient(":memory:")
        config = models.VectorParams(size=vectors.shape[1], distance=models.Distance.COSINE)
        self._client.create_collection("images", vectors_config=config)
        self._client.upload_collection("images", vectors=vectors, ids=range(len(vectors)))

    def search(self, setting: Setting) -> Search:
        def search(vector: Vectors) -> list[int]:
            points = self._client.query_points("images", query=vector, limit=K, with_payload=False).points
            return [point.id for point in points]

        return search


PEERS: dict[str, Any] = {
    "pickle": PickleLoop,
    "faiss": Faiss,
    "fastapi": FastApi,
    "chroma": Chroma,
    "lancedb": LanceDb,
    "milvus": MilvusLite,
    "qdrant": Qdrant,
}


def recall(ids: list[list[int]], truth: npt.NDArray[np.int64]) -> float:
    """Returns the share of the true neighbours that were found."""
    found = sum(len(set(got) & set(true)) for got, true in zip(ids, truth.tolist(), strict=True))
    return found / truth.size


def choose(peer: Any, folder: pathlib.Path) -> tuple[Setting, list[Setting]]:
    """Returns the fastest setting of those with enough recall (or that with most), and what was tried.

    Of each kind of index the settings come cheapest first: the first that is good enough stands for it.
    """
    queries, truth = np.load(folder / QUERIES), np.load(folder / TRUTH)
    tried: list[dict[str, Any]] = []
    for setting in peer.settings:
        if any(t["setting"].get("index") == setting.get("index") and t["recall"] >= RECALL + _MARGIN for t in tried):
            continue
        search = peer.search(setting)
        ask(search, queries, range(10), 1, _TRIED_SECONDS)
        answers = ask(search, queries, range(_TRIED_QUERIES), 1, _TRIED_SECONDS)
        found = recall([ids for _, _, ids in answers], truth[[number for number, _, _ in answers]])
        rate = len(answers) / sum(seconds for _, seconds, _ in answers)
        tried.append({"setting": setting, "recall": round(found, 4), "rate": round(rate, 1)})
    enough = [found for found in tried if found["recall"] >= RECALL + _MARGIN]
    best = max(enough, key=lambda found: found["rate"]) if enough else max(tried, key=lambda found: found["recall"])
    return best["setting"], tried


def main() -> None:
    """Builds, chooses, and answers jobs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=PEERS)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--address", default="", help="of its server, where it has one")
    parser.add_argument("--setting", default="", help="JSON: not to be looked for")
    arguments = parser.parse_args()
    begun = time.perf_counter()
    peer = PEERS[arguments.name](np.load(arguments.folder / VECTORS), arguments.folder, arguments.address)
    built = time.perf_counter() - begun
    setting, tried = (json.loads(arguments.setting), []) if arguments.setting else choose(peer, arguments.folder)
    do_jobs(peer.search(setting), arguments.folder, {"setting": setting, "tried": tried, "build_seconds": built})


if __name__ == "__main__":
    main()
