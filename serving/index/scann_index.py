"""ScaNN behind the interface of every index: brute force, and a tree of leaves."""

import copy
import json
import pathlib
import tempfile
from typing import Any

import numpy as np

from serving.index.folder import save_parameters
from serving.index.index import Embeddings, Rows, check_query, check_tuned, plain
from serving.index.parameters import IndexParameters
from serving.index.rerank import rerank
from serving.scann_package import scann_pybind

# The files of a searcher, by ScaNN's name for what is in them. Its dataset is not among them: that is the shard's
# embeddings, byte for byte, so ScaNN reads those.
_ASSETS = {
    "ah_codebook.pb": "AH_CENTERS",
    "serialized_partitioner.pb": "PARTITIONER",
    "datapoint_to_token.npy": "TOKENIZATION_NPY",
    "hashed_dataset.npy": "AH_DATASET_NPY",
    "hashed_dataset_soar.npy": "AH_DATASET_SOAR_NPY",
}
_HASH_FROM = 16
_USUAL_K = 32
_SOAR_LAMBDA = 1.5  # what ScaNN's authors advise


class ScannIndex:
    """ScaNN by dot product. It keeps its own copy of the embeddings in memory, unless it re-ranks by their file."""

    def __init__(self, searcher: Any, parameters: IndexParameters, embeddings: Embeddings) -> None:
        self._searcher = searcher
        self._parameters = parameters
        self.kind = parameters.kind
        self.count, self.dimension = embeddings.shape
        self._stored = plain(embeddings) if _reranks_by_file(parameters, self.count) else None

    def search(self, queries: Embeddings, k: int, *, effort: int = 1) -> tuple[Rows, Embeddings]:
        k = check_query(self, queries, k)
        if not k or not len(queries):
            return np.empty((len(queries), k), np.int64), np.empty((len(queries), k), np.float32)
        queries = np.ascontiguousarray(queries)
        depth = max(k, min(self.count, _grown(self._parameters.reorder * effort, k)))
        rows, scores = self._ask(queries, k, depth, self._leaves(k, effort))
        # Where the leaves that were looked into hold fewer than k, ScaNN fills up with row 0 and a score of NaN.
        short = np.isnan(scores[:, -1])
        if short.any():
            rows[short], scores[short] = self._ask(queries[short], k, depth, self._parameters.leaves)
        return rows, scores

    def _leaves(self, k: int, effort: int) -> int:
        return min(self._parameters.leaves, self.count, _grown(self._parameters.leaves_to_search * effort, k))

    def _ask(self, queries: Embeddings, k: int, depth: int, leaves: int) -> tuple[Rows, Embeddings]:
        if self._stored is None:
            return self._propose(queries, k, depth, leaves)
        rows, scores = self._propose(queries, depth, depth, leaves)
        return rerank(self._stored, queries, rows, scores, k)

    def _propose(self, queries: Embeddings, k: int, reorder: int, leaves: int) -> tuple[Rows, Embeddings]:
        if len(queries) == 1:
            found, values = self._searcher.search(queries[0], k, reorder, leaves)
            if len(found) == k and values[-1] == values[-1]:
                return found.astype(np.int64)[np.newaxis], values[np.newaxis]
            rows, scores = np.zeros((1, k), np.int64), np.full((1, k), np.nan, np.float32)
            rows[0, : len(found)], scores[0, : len(found)] = found, values
            return rows, scores
        found, scores = self._searcher.search_batched(queries, k, reorder, leaves)
        return found.astype(np.int64), scores

    def tuned(self, parameters: IndexParameters) -> "ScannIndex":
        check_tuned(self.kind, self._parameters, parameters)
        other = copy.copy(self)
        other._parameters = parameters
        return other

    def save(self, folder: pathlib.Path) -> None:
        save_parameters(folder, self._parameters, self.count, self.dimension)
        if self.kind != "tree" or not self.count:
            return  # brute force is nothing but the embeddings
        with tempfile.TemporaryDirectory(dir=folder) as everything:
            # ScaNN also writes a copy of the embeddings, and a list of its files by absolute path (1.3.2 has no other).
            self._searcher.serialize(everything)
            for name in ["scann_config.pb", *_ASSETS]:
                file = pathlib.Path(everything, name)
                if file.exists():
                    file.rename(folder / name)


def _grown(usual: int, k: int) -> int:
    """What was chosen for some ten neighbours, for more.

    They lie in more leaves, and deeper among the proposals. Grown as the root of k, recall at 400 measured as good as
    at 10; with the same leaves it fell from 0.99 to 0.95.
    """
    return usual if k <= _USUAL_K else round(usual * (k / _USUAL_K) ** 0.5)


def build_scann(embeddings: Embeddings, parameters: IndexParameters) -> ScannIndex:
    """Returns ScaNN over `embeddings`: brute force, or a tree."""
    count, dimension = embeddings.shape
    if not count:
        return ScannIndex(None, parameters, embeddings)
    builder = scann_pybind().builder(plain(embeddings), 10, "dot_product")
    leaves = min(parameters.leaves, count)
    if parameters.kind == "tree":
        builder = builder.tree(
            leaves,
            min(parameters.leaves_to_search, count),
            training_sample_size=min(parameters.training_sample, count),
            min_partition_size=min(50, max(1, count // parameters.leaves)),
            # There must be a second leaf to spill to.
            soar_lambda=_SOAR_LAMBDA if parameters.spill and leaves > 1 else None,
        )
    if _hashes(parameters, count):
        blocks = min(parameters.hash_dimensions, dimension)
        builder = builder.score_ah(blocks, anisotropic_quantization_threshold=0.2)
        if parameters.rerank == "memory":
            builder = builder.reorder(parameters.reorder)
    else:
        builder = builder.score_brute_force()
    return ScannIndex(builder.build(), parameters, embeddings)


def load_scann(folder: pathlib.Path, embeddings: Embeddings, parameters: IndexParameters) -> ScannIndex:
    """Returns the index that `ScannIndex.save` wrote into `folder`."""
    if parameters.kind != "tree" or not len(embeddings):
        return build_scann(embeddings, parameters)
    if isinstance(embeddings, np.memmap) and embeddings.filename is not None:
        return _load_tree(folder, pathlib.Path(embeddings.filename), parameters, embeddings)
    with tempfile.TemporaryDirectory() as temporary:
        file = pathlib.Path(temporary, "embeddings.npy")
        np.save(file, embeddings, allow_pickle=False)
        return _load_tree(folder, file, parameters, embeddings)


def _load_tree(
    folder: pathlib.Path, dataset: pathlib.Path, parameters: IndexParameters, embeddings: Embeddings
) -> ScannIndex:
    for name in ("scann_config.pb", "serialized_partitioner.pb", "datapoint_to_token.npy"):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder.name}/{name} is missing.")
    files = {kind: folder / name for name, kind in _ASSETS.items() if (folder / name).exists()}
    if not _reranks_by_file(parameters, len(embeddings)):
        files["DATASET_NPY"] = dataset
    assets = "\n".join(
        # json.dumps quotes a path just as protobuf's text format reads it.
        f"assets {{ asset_type: {kind} asset_path: {json.dumps(str(file.absolute()))} }}"
        for kind, file in files.items()
    )
    scann = scann_pybind()
    # Not load_searcher: it would unpickle a file of ids, if there was one.
    searcher = scann.ScannSearcher(scann.scann_pybind.ScannNumpy(str(folder.absolute()), assets))
    return ScannIndex(searcher, parameters, embeddings)


def _hashes(parameters: IndexParameters, count: int) -> bool:
    # Hashing learns 16 centres a block; of fewer embeddings 1.4.2 refuses to, and 1.3.2 crashes. From a tree of one
    # hashed leaf it answers row 0 throughout.
    return parameters.kind == "tree" and parameters.scoring == "hash" and count >= _HASH_FROM and parameters.leaves > 1


def _reranks_by_file(parameters: IndexParameters, count: int) -> bool:
    return _hashes(parameters, count) and parameters.rerank == "file"
