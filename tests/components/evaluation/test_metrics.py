import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.metrics import average_precision_score, label_ranking_average_precision_score
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

from components.evaluation import metrics


def unit(*rows):
    return metrics.normalize(np.asarray(rows, np.float32))


def flags(*rows):
    return np.asarray([[mark == "x" for mark in row] for row in rows])


def counts(*values):
    return np.asarray(values, np.int64)


def all_neighbors(queries, database, **options):
    blocks = [rows for _, rows in metrics.neighbors(queries, database, **options)]
    return np.concatenate(blocks)


def test_neighbors_are_ordered_by_cosine_and_ties_by_row():
    database = unit([1, 0], [0, 1], [2, 0], [1, 1])
    assert all_neighbors(unit([3, 0.1]), database, depth=4).tolist() == [[0, 2, 3, 1]]


def test_a_query_is_not_its_own_neighbor():
    database = unit([1, 0], [1, 0.1], [0, 1])
    own = np.asarray([0, metrics.NOTHING])
    assert all_neighbors(database[:2], database, depth=3, exclude=own).tolist() == [[1, 2], [1, 0]]


def test_equal_images_rank_by_row_wherever_they_lie():
    """BLAS computes the last rows of a block by other code, with other last bits."""
    database = np.repeat(metrics.normalize(np.random.default_rng(0).normal(size=(1, 37)).astype(np.float32)), 1003, 0)
    queries = metrics.normalize(np.random.default_rng(1).normal(size=(5, 37)).astype(np.float32))
    assert (all_neighbors(queries, database, depth=1003) == np.arange(1003)).all()


def test_blocks_give_the_same_as_one(monkeypatch):
    vectors = metrics.normalize(np.random.default_rng(0).normal(size=(50, 8)).astype(np.float32))
    whole = all_neighbors(vectors, vectors, depth=7)
    monkeypatch.setattr(metrics, "_BLOCK_CELLS", 150)
    assert len(list(metrics.neighbors(vectors, vectors, depth=7))) == 17
    assert (all_neighbors(vectors, vectors, depth=7) == whole).all()


def test_no_neighbors_where_the_database_is_only_the_query():
    assert list(metrics.neighbors(unit([1, 0]), unit([1, 0]), depth=5, exclude=np.asarray([0]))) == []


def test_ranks_of_a_target():
    database = unit([1, 0], [1, 1], [0, 1])
    ranks = metrics.target_ranks(unit([1, 0.2], [1, 0.2], [1, 0.2]), database, counts(0, 1, 2))
    assert ranks.tolist() == [0, 1, 2]
    assert metrics.recall_at(ranks, 2).tolist() == [1.0, 1.0, 0.0]


def test_a_constant_embedding_finds_nothing():
    """All similarities tie: only the first row is ever found, not every target."""
    same = unit(*[[1, 1]] * 10)
    ranks = metrics.target_ranks(same, same, np.arange(10))
    assert metrics.recall_at(ranks, 1).mean() == 0.1


@pytest.mark.parametrize(
    "labels, vote",
    [
        ([1, 2, 2, 3, 2], 2),
        ([1, 2, 2, 1, 3], 1),  # a tie of 1 and 2: the nearest is a 1
        ([3, 1, 2, 2, 1], 1),  # a tie of 1 and 2, and the nearest of the two is a 1
        ([5, 4, 3, 2, 1], 5),  # all tied
    ],
)
def test_majority_vote(labels, vote):
    assert metrics.majority_vote(counts(*labels)[None]).tolist() == [vote]


def test_precision_by_hand():
    assert metrics.precision_at(flags("xx.x", "...."), 4).tolist() == [0.75, 0.0]
    assert metrics.precision_at(flags("x..."), 10).tolist() == [0.25]


def test_average_precision_by_hand():
    # Right at ranks 1 and 3 of 5, three right answers in all: (1/1 + 2/3) / 3; cut at 2: (1/1) / min(3, 2).
    assert metrics.average_precision_at(flags("x.x.."), 5, counts(3))[0] == pytest.approx((1 + 2 / 3) / 3)
    assert metrics.average_precision_at(flags("x.x.."), 2, counts(3))[0] == pytest.approx(1 / 2)


def test_average_precision_at_r_by_hand():
    # The example of Musgrave et al., figure 3: R = 10, the first right: 1/10; first and last: (1 + 2/10) / 10.
    ten = counts(10)
    assert metrics.average_precision_at_r(flags("x" + "." * 9), ten)[0] == pytest.approx(0.1)
    assert metrics.average_precision_at_r(flags("x" + "." * 8 + "x"), ten)[0] == pytest.approx(0.12)
    assert metrics.average_precision_at_r(flags("xx" + "." * 8), ten)[0] == pytest.approx(0.2)
    # What comes after R doesn't count.
    assert metrics.average_precision_at_r(flags(".xxx"), counts(1))[0] == 0.0


@pytest.fixture(scope="module")
def digits():
    data = load_digits()
    return metrics.normalize(data.data.astype(np.float32)), data.target.astype(np.int64)


def test_neighbors_agree_with_scikit_learn(digits):
    vectors, _ = digits
    found = all_neighbors(vectors[:300], vectors, depth=10, exclude=np.arange(300))
    theirs = NearestNeighbors(n_neighbors=11, metric="cosine").fit(vectors).kneighbors(vectors[:300])[1][:, 1:]
    assert (found == theirs).mean() > 0.999  # the rest are pairs closer than six decimals


def test_nearest_neighbor_accuracy_agrees_with_scikit_learn(digits):
    vectors, labels = digits
    scores = metrics.label_scores(vectors[:400], labels[:400], vectors[400:], labels[400:])
    for k, mine in ((1, scores.one_nn), (5, scores.five_nn)):
        model = KNeighborsClassifier(k, metric="cosine").fit(vectors[400:], labels[400:])
        # Only ties may differ: scikit-learn gives them to the smallest label.
        votes = np.sort(labels[400:][model.kneighbors(vectors[:400])[1]], axis=1)
        most = np.asarray([np.sort(np.bincount(row))[-2:] for row in votes if len(np.bincount(row)) > 1])
        ties = int((most[:, 0] == most[:, 1]).sum())
        assert abs(mine.mean() - model.score(vectors[:400], labels[:400])) <= ties / 400 + 1e-9


def test_average_precision_over_everything_agrees_with_scikit_learn(digits):
    vectors, labels = digits[0][:600], digits[1][:600]
    scores = metrics.label_scores(vectors[:50], labels[:50], vectors, labels, np.arange(50))
    others = [np.delete(np.arange(600), query) for query in range(50)]
    similarity = vectors[:50] @ vectors.T
    theirs = [average_precision_score(labels[o] == labels[q], similarity[q, o]) for q, o in enumerate(others)]
    assert scores.map_at_1000 == pytest.approx(np.asarray(theirs), abs=1e-3)  # pairs closer than six decimals


def test_scores_by_hand():
    vectors = unit([1, 0], [1, 0.1], [1, 0.2], [0, 1])
    labels = counts(0, 1, 0, 2)
    scores = metrics.label_scores(vectors, labels, vectors, labels, np.arange(4))
    # The 1 and the 2 are the only ones of their label. Query 0 sees rows 1, 2, 3; query 2 sees 1, 0, 3.
    assert scores.queries.tolist() == [0, 2]
    assert scores.means() == pytest.approx(
        {"one_nn": 0.0, "five_nn": 0.0, "precision_at_10": 1 / 3, "map_at_r": 0.0, "map_at_1000": 0.5}
        | {"ranking_at_1000": 0.5}
    )


def test_labels_of_which_there_is_only_one_each_give_no_scores():
    vectors = unit([1, 0], [0, 1])
    scores = metrics.label_scores(vectors, counts(0, 1), vectors, counts(0, 1), np.arange(2))
    assert scores.means() == {}


def test_normalize_refuses_what_is_no_number():
    with pytest.raises(ValueError, match="finite"):
        metrics.normalize(np.asarray([[1.0, np.nan]], np.float32))


def test_a_zero_vector_stays_zero():
    assert unit([0, 0]).tolist() == [[0.0, 0.0]]


def test_label_ranking_precision_by_hand():
    # Right at ranks 1 and 3: (1/1 + 2/3) / 2, however many there are to be found.
    assert metrics.label_ranking_precision_at(flags("x.x.", "...."), 4).tolist() == pytest.approx([5 / 6, 0.0])
    assert metrics.label_ranking_precision_at(flags("x.x."), 2)[0] == 1.0


def test_label_ranking_precision_agrees_with_scikit_learn(digits):
    """By similarity: by distance, as it is sometimes seen, scikit-learn would rank the farthest first."""
    vectors, labels = digits
    scores = metrics.label_scores(vectors[:40], labels[:40], vectors[40:], labels[40:])
    similarity = vectors[:40] @ vectors[40:].T
    for query in range(40):
        nearest = np.argsort(-similarity[query], kind="stable")[:1000]
        right = (labels[40:][nearest] == labels[query])[None]
        theirs = label_ranking_average_precision_score(right, similarity[query, nearest][None])
        assert scores.ranking_at_1000[query] == pytest.approx(theirs, abs=1e-3)  # pairs closer than six decimals


def test_a_confidence_interval_is_that_of_the_normal_distribution():
    scores = np.random.default_rng(0).normal(0.5, 0.1, 4000)
    low, high = metrics.bootstrap(scores, seed=1)
    assert (low, high) == metrics.bootstrap(scores, seed=1)
    error = scores.std() / len(scores) ** 0.5
    assert low == pytest.approx(scores.mean() - 1.96 * error, abs=0.2 * error)
    assert high == pytest.approx(scores.mean() + 1.96 * error, abs=0.2 * error)


def test_scores_have_intervals_around_their_means(digits):
    vectors, labels = digits
    scores = metrics.label_scores(vectors[:100], labels[:100], vectors, labels, np.arange(100))
    for name, mean in scores.means().items():
        low, high = scores.intervals(seed=0)[name]
        assert low <= mean <= high
