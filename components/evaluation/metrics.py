"""Retrieval metrics, exact and the same on every run: the only implementation, for evaluators and benchmarks.

Similarity is the cosine. It is compared after rounding to six decimals, because what BLAS leaves in the last bits
depends on where a row lies in a block; equal similarities rank by database row, lower first. In the shapes `Q` is the
number of queries, `N` of database rows, `D` of dimensions. Everything returns a value for each query, so that a caller
can take means or bootstrap them. Queries go in blocks: memory is bounded by `_BLOCK_CELLS`, never by `Q` times `N`.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]
Labels = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Scores = npt.NDArray[np.float64]

SCORES = ("one_nn", "five_nn", "precision_at_10", "map_at_r", "map_at_1000", "ranking_at_1000")
NOTHING = -1  # in `exclude`: the query isn't in the database
_STEPS = 1_000_000  # six decimals
_BLOCK_CELLS = 2_000_000


@dataclasses.dataclass(frozen=True)
class LabelScores:
    """How well labels agree with neighbours. Each is float64 `[J]`, of the J queries that could be judged.

    queries: int64 `[J]`, which ones: those whose label at least one other database row has.
    one_nn, five_nn: 1 where the vote of the nearest (five) is right. The others: see the functions of those names.
    """

    queries: Rows
    one_nn: Scores
    five_nn: Scores
    precision_at_10: Scores
    map_at_r: Scores
    map_at_1000: Scores
    ranking_at_1000: Scores

    def means(self) -> dict[str, float]:
        """Returns each score's mean over the judged queries; empty where none could be judged."""
        if not len(self.queries):
            return {}
        return {name: float(np.mean(getattr(self, name))) for name in SCORES}

    def intervals(self, *, seed: int) -> dict[str, tuple[float, float]]:
        """Returns each mean's 95% confidence interval over queries; see `bootstrap`."""
        if not len(self.queries):
            return {}
        return {name: bootstrap(getattr(self, name), seed=seed) for name in SCORES}


def normalize(vectors: npt.NDArray[np.float32]) -> Vectors:
    """Returns rows of unit length, float32 `[N, D]`; a zero row stays zero, and is then like nothing at all."""
    lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64))
    if not np.isfinite(lengths).all():
        raise ValueError("vectors must be finite, got NaN or infinity.")
    scale = 1.0 / np.where(lengths > 0.0, lengths, 1.0)
    return (vectors * scale[:, None].astype(np.float32)).astype(np.float32, copy=False)


def neighbors(
    queries: Vectors, database: Vectors, *, depth: int, exclude: Rows | None = None
) -> Iterator[tuple[slice, Rows]]:
    """Yields (queries of a block, rows `[b, depth]`): the rows most like each query, best first.

    queries `[Q, D]`, database `[N, D]`: of unit length. exclude: int64 `[Q]`, the row that is the query itself, or
    NOTHING. depth is cut to what every query has.
    """
    available = len(database) - (1 if exclude is not None and bool((exclude != NOTHING).any()) else 0)
    depth = min(depth, available)
    if depth < 1:
        return
    for block, keys in _ranking_keys(queries, database, exclude):
        # Keys are distinct, so what a partition puts first is the same set every time.
        first = np.partition(keys, depth - 1, axis=1)[:, :depth] if depth < keys.shape[1] else keys
        yield block, np.sort(first, axis=1)[:, :depth] % len(database)


def target_ranks(queries: Vectors, database: Vectors, targets: Rows) -> Rows:
    """Returns int64 `[Q]`: how many database rows rank before the row `targets[q]` for query q; 0 is the best."""
    ranks = np.empty(len(queries), np.int64)
    for block, keys in _ranking_keys(queries, database, None):
        wanted = np.take_along_axis(keys, targets[block, None], axis=1)
        ranks[block] = (keys < wanted).sum(axis=1)
    return ranks


def recall_at(ranks: Rows, k: int) -> Scores:
    """Returns 1 where the one right answer is among the first k, else 0: recall@k of a query with one right answer.

    Jegou, Douze, Schmid, "Product quantization for nearest neighbor search", 2011, section V: 1 if rank < k.
    """
    return (ranks < k).astype(np.float64)


def majority_vote(neighbor_labels: Labels) -> Labels:
    """Returns the label most of the k neighbours have, int64 `[Q]`, for labels int64 `[Q, k]`, nearest first.

    A tie goes to the label among the tied ones that the nearest neighbour has. ("Nearest neighbor pattern
    classification", IEEE Transactions on Information Theory, 1967, leaves ties open; scikit-learn takes the smallest
    label.)
    """
    votes = (neighbor_labels[:, :, None] == neighbor_labels[:, None, :]).sum(axis=2)
    # argmax takes the first of equals, and they are ordered by nearness.
    return np.take_along_axis(neighbor_labels, votes.argmax(axis=1)[:, None], axis=1)[:, 0]


def precision_at(relevant: Flags, k: int) -> Scores:
    """P@k = (1/k) sum_{i<=k} rel(i), for rel: bool `[Q, depth]`; k is cut to the depth.

    Manning, Raghavan, Schuetze, "Introduction to Information Retrieval", 2008, section 8.4.
    """
    return relevant[:, :k].mean(axis=1, dtype=np.float64)


def average_precision_at(relevant: Flags, k: int, counts: Rows) -> Scores:
    """AP@k = 1/min(m, k) sum_{i<=k} P(i) rel(i), for rel: bool `[Q, depth]`, m = `counts` int64 `[Q]`: right answers.

    Weyand, Araujo, Cao, Sim, "Google Landmarks Dataset v2", 2020, equation 1 (there mAP@100). What isn't found counts
    as a miss. (Papers on hashing often divide by what was found instead: see `label_ranking_precision_at`.)
    """
    hits = relevant[:, :k]
    precision = np.cumsum(hits, axis=1) / np.arange(1, hits.shape[1] + 1)
    return (precision * hits).sum(axis=1) / np.maximum(np.minimum(counts, k), 1)


def label_ranking_precision_at(relevant: Flags, k: int) -> Scores:
    """The mean of P(i) over the right answers among the first k, for rel: bool `[Q, depth]`; 0 where there are none.

    Label-ranking average precision (scikit-learn's `label_ranking_average_precision_score`) of the k answers, by
    similarity; what papers on hashing call mAP@k. It doesn't punish what is not found, so it is never below AP@k.
    """
    hits = relevant[:, :k]
    precision = np.cumsum(hits, axis=1) / np.arange(1, hits.shape[1] + 1)
    return (precision * hits).sum(axis=1) / np.maximum(hits.sum(axis=1), 1)


def average_precision_at_r(relevant: Flags, counts: Rows) -> Scores:
    """MAP@R of a query = 1/R sum_{i<=R} P(i) rel(i), R = `counts` int64 `[Q]`: how many right answers there are.

    Musgrave, Belongie, Lim, "A Metric Learning Reality Check", 2020, equations 1 and 2.
    """
    within = np.arange(relevant.shape[1]) < counts[:, None]
    hits = relevant & within
    precision = np.cumsum(hits, axis=1) / np.arange(1, hits.shape[1] + 1)
    return (precision * hits).sum(axis=1) / np.maximum(counts, 1)


def label_scores(
    queries: Vectors, query_labels: Labels, database: Vectors, database_labels: Labels, exclude: Rows | None = None
) -> LabelScores:
    """Returns how well each query's neighbours share its label, the query's own row (`exclude`) left out.

    queries `[Q, D]`, database `[N, D]`: of unit length; labels int64. A query whose label no other row has can't be
    right, and is left out of every score.
    """
    counts = np.bincount(database_labels, minlength=int(query_labels.max(initial=-1)) + 1)[query_labels]
    if exclude is not None:
        counts = counts - (exclude != NOTHING)
    judged = np.flatnonzero(counts > 0)
    depth = int(max(1000, counts.max(initial=0)))
    parts: list[tuple[Scores, ...]] = []
    chosen = None if exclude is None else exclude[judged]
    for block, rows in neighbors(queries[judged], database, depth=depth, exclude=chosen):
        labels, right, total = database_labels[rows], query_labels[judged[block]], counts[judged[block]]
        relevant = labels == right[:, None]
        parts.append(
            (
                relevant[:, 0].astype(np.float64),
                (majority_vote(labels[:, :5]) == right).astype(np.float64),
                precision_at(relevant, 10),
                average_precision_at_r(relevant, total),
                average_precision_at(relevant, 1000, total),
                label_ranking_precision_at(relevant, 1000),
            )
        )
    empty = (np.empty(0),) * len(SCORES)
    return LabelScores(judged, *(np.concatenate(columns) for columns in zip(*(parts or [empty]), strict=True)))


def bootstrap(scores: Scores, *, seed: int, draws: int = 1_000) -> tuple[float, float]:
    """Returns the 95% confidence interval of the mean of `scores` `[Q]`, Q at least 1: percentiles of resampled means.

    Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, section 13.3.
    """
    generator = np.random.default_rng(seed)
    means = [scores[generator.integers(len(scores), size=len(scores))].mean() for _ in range(draws)]
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)


def _ranking_keys(queries: Vectors, database: Vectors, exclude: Rows | None) -> Iterator[tuple[slice, Rows]]:
    """Yields (queries of a block, keys int64 `[b, N]`): distinct, lower is better, key modulo N is the row."""
    count = len(database)
    size = max(1, _BLOCK_CELLS // max(count, 1))
    rows = np.arange(count, dtype=np.int64)
    for start in range(0, len(queries), size):
        block = slice(start, min(start + size, len(queries)))
        similarity = queries[block] @ database.T
        keys = np.rint(similarity * -_STEPS).astype(np.int64) * count + rows
        if exclude is not None:
            own = np.flatnonzero(exclude[block] != NOTHING)
            # Behind everything else; still congruent to its row.
            keys[own, exclude[block][own]] += 4 * _STEPS * count
        yield block, keys
