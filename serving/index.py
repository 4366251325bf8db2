"""Nearest neighbours by cosine: an exact index, and ScaNN behind the same interface."""

import dataclasses
import json
import pathlib
import tempfile
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from serving.scann_package import scann_pybind

Embeddings = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]

KINDS = ("exact", "brute_force", "tree")
SCORINGS = ("exact", "hash")
PARAMETERS_FILE = "parameters.json"
# ScaNN's own advice; measured here too: below it a tree is no faster, and brute force never misses.
BRUTE_FORCE_BELOW = 20_000

# The files of a searcher, by ScaNN's name for what is in them. Its dataset is not among them: that is the shard's
# embeddings, byte for byte, so ScaNN reads those.
_ASSETS = {
    "ah_codebook.pb": "AH_CENTERS",
    "serialized_partitioner.pb": "PARTITIONER",
    "datapoint_to_token.npy": "TOKENIZATION_NPY",
    "hashed_dataset.npy": "AH_DATASET_NPY",
}
_HASH_FROM = 16
_USUAL_K = 32
_BLOCK = 8192  # embeddings an exact search scores at a time
_QUERIES = 256  # queries an exact search scores at a time: 256 x 8192 scores are 8 MB


@dataclasses.dataclass(frozen=True)
class IndexParameters:
    """How an index is built and searched. kind: `exact`, `brute_force` (ScaNN's, as exact and faster) or `tree`.

    The rest is for `tree`. leaves: partitions. leaves_to_search: partitions a query looks into.
    scoring: inside the leaves, `exact` or `hash` (asymmetric hashing of hash_dimensions dimensions at a time, of which
    the best `reorder` are scored exactly). training_sample: how many embeddings the partitions are learned from.
    """

    kind: str = "brute_force"
    leaves: int = 1
    leaves_to_search: int = 1
    scoring: str = "exact"
    hash_dimensions: int = 2
    reorder: int = 100
    training_sample: int = 100_000

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {KINDS}, got {self.kind!r}.")
        if self.scoring not in SCORINGS:
            raise ValueError(f"scoring must be one of {SCORINGS}, got {self.scoring!r}.")
        for name in ("leaves", "leaves_to_search", "hash_dimensions", "reorder", "training_sample"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}.")
        if self.leaves_to_search > self.leaves:
            raise ValueError(f"leaves_to_search must be in [1, {self.leaves}], got {self.leaves_to_search}.")

    def to_dict(self) -> dict[str, Any]:
        """Returns the parameters as a JSON value."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> "IndexParameters":
        """Returns the parameters in `value`; raises ValueError where there are others than ours."""
        unknown = sorted(set(value) - {field.name for field in dataclasses.fields(cls)})
        if unknown:
            raise ValueError(f"unknown index parameters: {', '.join(unknown)}.")
        return cls(**value)


def choose_parameters(count: int, dimension: int) -> IndexParameters:
    """Returns parameters to begin with; what recall and speed they give is for IndexEvaluator to measure."""
    if count < BRUTE_FORCE_BELOW:
        return IndexParameters("brute_force")
    # ScaNN's rule of thumb for the leaves is the square root of the count. Within them exact scoring measured faster
    # than hashing at the same recall up to 60,000 embeddings of 64 dimensions.
    leaves = round(count**0.5)
    return IndexParameters("tree", leaves=leaves, leaves_to_search=max(1, leaves // 8))


class Index(Protocol):
    """Proposes the nearest neighbours of a query. A row is a position in datapoint order, in [0, count)."""

    kind: str
    count: int
    dimension: int

    def search(self, queries: Embeddings, k: int, *, effort: int = 1) -> tuple[Rows, Embeddings]:
        """Returns the rows and scores of each query's neighbours, best first.

        Args:
          queries: float32 `[Q, D]`, of unit length.
          k: at least 1.
          effort: how many times as much to look at than usual, where an index looks at a part; at least 1.

        Returns:
          rows: int64 `[Q, min(k, count)]`, none twice in a query. scores: float32 of the same shape, the dot products
          as the index sees them; who needs them exactly computes them from the embeddings.
        """

    def save(self, folder: pathlib.Path) -> None:
        """Writes the index into a folder, without the embeddings; `load_index` finds it again wherever that moves."""


class ExactIndex:
    """Every embedding compared with every query, in NumPy, ties by row: small, and the oracle of the others."""

    kind = "exact"

    def __init__(self, embeddings: Embeddings) -> None:
        self._embeddings = _plain(embeddings)
        self.count, self.dimension = embeddings.shape

    def search(self, queries: Embeddings, k: int, *, effort: int = 1) -> tuple[Rows, Embeddings]:
        k = _check_query(self, queries, k)
        parts = [self._search(queries[start : start + _QUERIES], k) for start in range(0, len(queries), _QUERIES)]
        if not parts:
            return np.empty((0, k), np.int64), np.empty((0, k), np.float32)
        return np.concatenate([rows for rows, _ in parts]), np.concatenate([scores for _, scores in parts])

    def _search(self, queries: Embeddings, k: int) -> tuple[Rows, Embeddings]:
        rows = np.empty((len(queries), 0), np.int64)
        scores = np.empty((len(queries), 0), np.float32)
        for start in range(0, self.count, _BLOCK):
            block = queries @ self._embeddings[start : start + _BLOCK].T
            numbers = np.arange(start, start + block.shape[1])
            rows, scores = _best(
                np.concatenate([rows, np.broadcast_to(numbers, block.shape)], axis=1),
                np.concatenate([scores, block], axis=1),
                k,
            )
        order = np.argsort(-scores, axis=1, kind="stable")
        return np.take_along_axis(rows, order, axis=1), np.take_along_axis(scores, order, axis=1)

    def save(self, folder: pathlib.Path) -> None:
        _save_parameters(folder, IndexParameters("exact"), self.count, self.dimension)


class ScannIndex:
    """ScaNN by dot product. It reads the embeddings, and keeps its own copy of them in memory."""

    def __init__(self, searcher: Any, parameters: IndexParameters, count: int, dimension: int) -> None:
        self._searcher = searcher
        self._parameters = parameters
        self.kind = parameters.kind
        self.count = count
        self.dimension = dimension

    def search(self, queries: Embeddings, k: int, *, effort: int = 1) -> tuple[Rows, Embeddings]:
        k = _check_query(self, queries, k)
        if not k or not len(queries):
            return np.empty((len(queries), k), np.int64), np.empty((len(queries), k), np.float32)
        queries = np.ascontiguousarray(queries)
        rows, scores = self._ask(queries, k, min(self._leaves(k, effort), self.count))
        # Where the leaves that were looked into hold fewer than k, ScaNN fills up with row 0 and a score of NaN.
        short = np.isnan(scores[:, -1])
        if short.any():
            rows[short], scores[short] = self._ask(queries[short], k, min(self._parameters.leaves, self.count))
        return rows, scores

    def _leaves(self, k: int, effort: int) -> int:
        # The parameters are chosen for some ten neighbours. More of them lie in more leaves: with the leaves growing as
        # the root of k, recall at 400 measured as good as at 10; with the same ones it fell from 0.99 to 0.95.
        leaves = self._parameters.leaves_to_search * effort
        return min(self._parameters.leaves, leaves if k <= _USUAL_K else round(leaves * (k / _USUAL_K) ** 0.5))

    def _ask(self, queries: Embeddings, k: int, leaves: int) -> tuple[Rows, Embeddings]:
        reorder = max(k, self._parameters.reorder)
        if len(queries) == 1:
            found, values = self._searcher.search(queries[0], k, reorder, leaves)
            if len(found) == k and values[-1] == values[-1]:
                return found.astype(np.int64)[np.newaxis], values[np.newaxis]
            rows, scores = np.zeros((1, k), np.int64), np.full((1, k), np.nan, np.float32)
            rows[0, : len(found)], scores[0, : len(found)] = found, values
            return rows, scores
        found, scores = self._searcher.search_batched(queries, k, reorder, leaves)
        return found.astype(np.int64), scores

    def save(self, folder: pathlib.Path) -> None:
        _save_parameters(folder, self._parameters, self.count, self.dimension)
        if self.kind != "tree" or not self.count:
            return  # brute force is nothing but the embeddings
        with tempfile.TemporaryDirectory(dir=folder) as everything:
            # ScaNN also writes a copy of the embeddings, and a list of its files by absolute path (1.3.2 has no other).
            self._searcher.serialize(everything)
            for name in ["scann_config.pb", *_ASSETS]:
                file = pathlib.Path(everything, name)
                if file.exists():
                    file.rename(folder / name)


def build_index(embeddings: Embeddings, parameters: IndexParameters) -> Index:
    """Returns an index over `embeddings`: float32 `[N, D]`, of unit length, N may be 0."""
    count, dimension = embeddings.shape
    if parameters.kind == "exact":
        return ExactIndex(embeddings)
    if not count:
        return ScannIndex(None, parameters, count, dimension)
    builder = scann_pybind().builder(_plain(embeddings), 10, "dot_product")
    if parameters.kind == "tree":
        builder = builder.tree(
            min(parameters.leaves, count),
            min(parameters.leaves_to_search, count),
            training_sample_size=min(parameters.training_sample, count),
            min_partition_size=min(50, max(1, count // parameters.leaves)),
        )
    # Hashing learns 16 centres a block; of fewer embeddings 1.4.2 refuses to, and 1.3.2 crashes.
    if parameters.kind == "tree" and parameters.scoring == "hash" and count >= _HASH_FROM:
        blocks = min(parameters.hash_dimensions, dimension)
        builder = builder.score_ah(blocks, anisotropic_quantization_threshold=0.2).reorder(parameters.reorder)
    else:
        builder = builder.score_brute_force()
    return ScannIndex(builder.build(), parameters, count, dimension)


def load_index(folder: pathlib.Path, embeddings: Embeddings, parameters: IndexParameters | None = None) -> Index:
    """Returns the index that `save` wrote into `folder`.

    Args:
      folder: what `save` wrote.
      embeddings: float32 `[N, D]`, what it was built from; mapped from a file (`np.load(mmap_mode="r")`) ScaNN reads
        that file.
      parameters: what the index must have been built with, where that is known.

    Raises:
      ValueError: where the folder holds another index than that.
    """
    found, shape = read_parameters(folder)
    if shape != embeddings.shape:
        raise ValueError(f"{folder.name} is an index of {shape} embeddings, got {embeddings.shape}.")
    if parameters is not None and found != parameters:
        raise ValueError(f"{folder.name} was built with {found}, expected {parameters}.")
    if found.kind != "tree" or not len(embeddings):
        return build_index(embeddings, found)
    if isinstance(embeddings, np.memmap) and embeddings.filename is not None:
        return _load_tree(folder, pathlib.Path(embeddings.filename), found, embeddings.shape)
    with tempfile.TemporaryDirectory() as temporary:
        file = pathlib.Path(temporary, "embeddings.npy")
        np.save(file, embeddings, allow_pickle=False)
        return _load_tree(folder, file, found, embeddings.shape)


def read_parameters(folder: pathlib.Path) -> tuple[IndexParameters, tuple[int, int]]:
    """Returns what the index in `folder` was built with, and (count, dimension)."""
    saved = json.loads((folder / PARAMETERS_FILE).read_bytes())
    shape = (saved.pop("count"), saved.pop("dimension"))
    return IndexParameters.from_dict(saved), shape


def _load_tree(folder: pathlib.Path, dataset: pathlib.Path, parameters: IndexParameters, shape: Any) -> ScannIndex:
    for name in ("scann_config.pb", "serialized_partitioner.pb", "datapoint_to_token.npy"):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder.name}/{name} is missing.")
    files = {kind: folder / name for name, kind in _ASSETS.items() if (folder / name).exists()}
    files["DATASET_NPY"] = dataset
    assets = "\n".join(
        # json.dumps quotes a path just as protobuf's text format reads it.
        f"assets {{ asset_type: {kind} asset_path: {json.dumps(str(file.absolute()))} }}"
        for kind, file in files.items()
    )
    scann = scann_pybind()
    # Not load_searcher: it would unpickle a file of ids, if there was one.
    searcher = scann.ScannSearcher(scann.scann_pybind.ScannNumpy(str(folder.absolute()), assets))
    return ScannIndex(searcher, parameters, *shape)


def _save_parameters(folder: pathlib.Path, parameters: IndexParameters, count: int, dimension: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    value = {**parameters.to_dict(), "count": count, "dimension": dimension}
    (folder / PARAMETERS_FILE).write_text(json.dumps(value, indent=1, sort_keys=True) + "\n")


def _check_query(index: Index, queries: Embeddings, k: int) -> int:
    if queries.ndim != 2 or queries.shape[1] != index.dimension or queries.dtype != np.float32:
        raise ValueError(f"queries must be float32 [Q, {index.dimension}], got {queries.dtype} {queries.shape}.")
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}.")
    return min(k, index.count)


def _best(rows: Rows, scores: Embeddings, k: int) -> tuple[Rows, Embeddings]:
    """Returns the k best of each line, in their order; of equals those that come first."""
    if scores.shape[1] <= k:
        return rows, scores
    bar = -np.partition(-scores, k - 1, axis=1)[:, k - 1 : k]
    better, equal = scores > bar, scores == bar
    room = k - better.sum(axis=1, keepdims=True)
    chosen = better | (equal & (np.cumsum(equal, axis=1) <= room))
    return rows[chosen].reshape(-1, k), scores[chosen].reshape(-1, k)


def _plain(embeddings: Embeddings) -> Embeddings:
    if embeddings.ndim != 2 or embeddings.dtype != np.float32:
        raise ValueError(f"embeddings must be float32 [N, D], got {embeddings.dtype} {embeddings.shape}.")
    # A view without memmap's bookkeeping, which costs more than a small search.
    return np.ascontiguousarray(embeddings).view(np.ndarray)
