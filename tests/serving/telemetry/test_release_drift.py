"""Drift of a real gateway's queries against what its release says of itself."""

import itertools
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from serving.client import Query
from serving.release.distribution import Distribution
from serving.telemetry.drift import LEAST
from tests.serving.collection import Collection
from tests.serving.fake_model_server import embed
from tests.serving.loop_thread import LoopThread
from tests.serving.pictures import png
from tests.serving.telemetry.monitored import Monitored

pytestmark = pytest.mark.slow

EVERY_IMAGE = {"reconstruct_images": 1.0}
ERRORS = Distribution.of(np.linspace(0.01, 0.02, 500).tolist())


def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.02)


def top1_scores(collection: Collection, images: range) -> Distribution:
    """Returns how the best scores of images are distributed over the collection."""
    queries = embed([png(seed) for seed in images])
    stored = embed(list(collection.images.values()))
    found = Distribution.of((queries @ stored.T).max(axis=1).tolist())
    assert found is not None
    return found


def publish(collection: Collection, **options: object) -> str:
    """Publishes a release with references: best scores of images 1000 to 1499, and ERRORS."""
    assert ERRORS is not None
    scores = top1_scores(collection, range(1000, 1500))
    return collection.publish(
        evaluation={"top1_scores": scores.to_dict()},
        encoder_metrics={"reconstruction_errors": ERRORS.to_dict()},
        **options,
    )


@pytest.fixture
def gateway(loop: LoopThread, tmp_path) -> Iterator[Monitored]:
    collection = Collection(tmp_path / "root")
    publish(collection)
    with Monitored(loop, collection, monitoring=EVERY_IMAGE) as gateway:
        gateway.client.wait_until_serving(60)
        yield gateway


def ask(gateway: Monitored, images: range) -> None:
    for start in range(images.start, images.stop, 100):
        asked = range(start, min(start + 100, images.stop))
        gateway.client.batch_search([Query(image=png(seed), k=1) for seed in asked])


def test_queries_like_those_of_the_evaluation_are_stable_and_others_are_not(gateway: Monitored) -> None:
    ask(gateway, range(2000, 2000 + LEAST - 1))
    assert not gateway.scrape().has("lookalike_top1_score_drift")
    ask(gateway, range(3000, 3200))
    scrape = gateway.scrape()
    assert scrape.value("lookalike_top1_score_drift") < 0.15
    assert scrape.value("lookalike_top1_score_drift_window") == LEAST + 199
    # Noise: nothing in the collection looks like it.
    noise = np.random.default_rng(0).normal(size=(600, 16))
    for start in range(0, 600, 100):
        gateway.client.batch_search([Query(vector=vector.tolist(), k=1) for vector in noise[start : start + 100]])
    assert gateway.scrape().value("lookalike_top1_score_drift") > 0.25


def test_the_scores_that_were_answered_are_counted(gateway: Monitored) -> None:
    scores = [gateway.client.search(image=png(seed), k=3).neighbors[0].score for seed in range(20)]
    scrape = gateway.scrape()
    assert scrape.value("lookalike_top1_score_count") == 20
    assert scrape.value("lookalike_top1_score_sum") == pytest.approx(sum(scores), abs=1e-4)
    for bound, count in scrape.buckets("lookalike_top1_score").items():
        assert count == sum(min(score, 1.0) <= bound for score in scores)


def test_the_release_s_own_distribution_is_told(gateway: Monitored) -> None:
    scrape = gateway.scrape()
    expected = top1_scores(gateway.collection, range(1000, 1500))
    assert scrape.value("lookalike_reference_top1_score_count") == expected.count == 500
    assert scrape.value("lookalike_reference_top1_score_sum") / 500 == pytest.approx(np.mean(expected.percentiles))
    for bound, count in scrape.buckets("lookalike_reference_top1_score").items():
        assert count == pytest.approx(500 * expected.share_up_to(bound), abs=1)
    errors = scrape.buckets("lookalike_reference_reconstruction_error")
    assert (errors[0.005], errors[0.02]) == (0, 500)
    assert 200 < errors[0.015] < 300


def test_only_what_asks_for_the_nearest_counts(gateway: Monitored) -> None:
    gateway.client.search(item_id="item-1.png")
    gateway.client.search(vector=[1.0] * 16, filter='label = "3"')
    gateway.client.search(vector=[1.0] * 16, min_score=1.0)
    assert gateway.scrape().value("lookalike_top1_score_count") == 0
    gateway.client.search(vector=[1.0] * 16, collapse=0.9)
    assert gateway.scrape().value("lookalike_top1_score_count") == 1


def test_errors_of_query_images_are_compared(gateway: Monitored) -> None:
    # However many of them are measured, they are spread as evenly as ERRORS: the multiples of the golden ratio are.
    golden = (5**0.5 - 1) / 2
    gateway.encoder.errors = (0.01 + 0.01 * (number * golden % 1) for number in itertools.count())
    while measured(gateway) < LEAST:
        for seed in range(50):
            gateway.client.search(image=png(seed), k=1)
    scrape = gateway.scrape()
    alike = scrape.value("lookalike_reconstruction_error_drift_window")
    assert scrape.value("lookalike_reconstruction_error_drift") < 0.02
    assert scrape.value("lookalike_reconstruction_error_sum") == pytest.approx(0.015 * alike, rel=0.05)
    gateway.encoder.errors = itertools.repeat(0.5)
    while measured(gateway) < 1.5 * alike:
        for seed in range(50):
            gateway.client.search(image=png(seed), k=1)
    assert gateway.scrape().value("lookalike_reconstruction_error_drift") > 0.25


def test_no_answer_waits_for_a_reconstruction_and_only_one_runs(gateway: Monitored) -> None:
    gateway.encoder.reconstruct_delay = 4.0
    for seed in range(5):
        gateway.client.search(image=png(seed), k=1)
    scrape = gateway.scrape()
    assert scrape.value("lookalike_reconstructions_total", outcome="busy") == 4
    assert measured(gateway) == 0
    until(lambda: measured(gateway) == 1)
    assert len([asked for asked in gateway.encoder.asked if asked == (1, 1)]) == 6


def test_a_reconstruction_that_fails_is_counted_and_breaks_nothing(gateway: Monitored) -> None:
    gateway.encoder.reconstructs = False
    gateway.client.search(image=png(0), k=1)
    until(lambda: gateway.scrape().value("lookalike_reconstructions_total", outcome="failed") == 1)
    assert gateway.scrape().value("lookalike_reconstruction_error_count") == 0
    gateway.encoder.reconstructs = True
    gateway.client.search(image=png(1), k=1)
    until(lambda: measured(gateway) == 1)


def test_a_release_without_references_is_compared_with_nothing(gateway: Monitored) -> None:
    gateway.encoder.versions = {1: 0, 2: 1}
    release_id = gateway.collection.publish(seed=1)
    until(lambda: gateway.client.get_release().release_id == release_id)
    ask(gateway, range(2000, 2000 + LEAST + 1))
    scrape = gateway.scrape()
    for name in ("top1_score", "reconstruction_error"):
        assert not scrape.has(f"lookalike_{name}_drift")
        assert not scrape.has(f"lookalike_{name}_drift_window")
        assert not scrape.has(f"lookalike_reference_{name}_count")
    # What is nothing to compare with isn't asked for.
    assert scrape.value("lookalike_reconstructions_total") == 0
    assert scrape.value("lookalike_top1_score_count") == LEAST + 1


def test_a_swap_begins_anew(gateway: Monitored) -> None:
    ask(gateway, range(2000, 2000 + LEAST + 1))
    assert gateway.scrape().has("lookalike_top1_score_drift")
    gateway.encoder.versions = {1: 0, 2: 1}
    old, new = gateway.collection.current, publish(gateway.collection, seed=1)
    until(lambda: gateway.client.get_release().release_id == new)
    scrape = gateway.scrape()
    assert scrape.value("lookalike_top1_score_drift_window") == 0
    assert not scrape.has("lookalike_top1_score_drift")
    # Of a pinned release the scores are its own.
    gateway.client.search(vector=[1.0] * 16, release_id=old)
    assert gateway.scrape().value("lookalike_top1_score_drift_window") == 0


@pytest.mark.parametrize("broken", [{"count": 3}, "many", [1, 2]])
def test_a_broken_reference_is_none_and_the_release_is_served(loop: LoopThread, tmp_path, broken: object) -> None:
    collection = Collection(tmp_path / "root")
    collection.publish(evaluation={"top1_scores": broken}, encoder_metrics={"reconstruction_errors": broken})
    with Monitored(loop, collection, monitoring=EVERY_IMAGE) as gateway:
        gateway.client.wait_until_serving(60)
        gateway.client.search(image=png(1))
        assert not gateway.scrape().has("lookalike_reference_top1_score_count")


def test_without_an_endpoint_nothing_is_reconstructed(loop: LoopThread, tmp_path) -> None:
    collection = Collection(tmp_path / "root")
    publish(collection)
    with Monitored(loop, collection, monitoring={**EVERY_IMAGE, "metrics_port": None}) as gateway:
        gateway.client.wait_until_serving(60)
        asked = len(gateway.encoder.asked)
        for seed in range(5):
            gateway.client.search(image=png(seed))
        time.sleep(0.2)
        assert len(gateway.encoder.asked) == asked + 5


def measured(gateway: Monitored) -> float:
    return gateway.scrape().value("lookalike_reconstructions_total", outcome="measured")
