import dataclasses

import pytest

from components.evaluation.exported_encoder import TrainingInfo
from components.evaluation.gates import FAILED, NOT_JUDGED, PASSED, Gate, GateLimits, is_blessed, judge, table
from components.evaluation.measurement import Measurement, Reconstruction
from components.evaluation.spectrum import Spectrum

INFO = TrainingInfo("convolutional", 16, 28, 28, 1, True)
SPECTRUM = Spectrum((0.1,) * 10, 10.0, 0.8, 0.0, 0.9, True, 1e-7)
RECONSTRUCTION = Reconstruction(
    reported=0.01, shown=0.01, variation=0.06, black=0.1, mean=0.067, pca=0.02, pca_dimension=16, pca_fitted_on=5000
)
LABELLED = {"one_nn": 0.97, "five_nn": 0.97, "precision_at_10": 0.95, "map_at_r": 0.6, "map_at_1000": 0.8}
GOOD = Measurement(
    queries=500,
    asked=500,
    database=5000,
    copies=500,
    records=5000,
    contents=5000,
    eval_reuses_train=False,
    pixel_variance=0.067,
    spectrum=SPECTRUM,
    reference_rank=12.0,
    reconstruction=RECONSTRUCTION,
    recall={"embedding": {"shift": 0.9}, "pca": {"shift": 0.9}, "pixels": {"shift": 0.9}, "served": {"shift": 0.9}},
    labelled={"embedding": LABELLED, "served": LABELLED},
    labelled_queries=500,
    served_mse=0.01,
)


def judged(measured, info=INFO, *, served="encoder version 3", problem=None, limits=GateLimits()):  # noqa: B008 (frozen)
    return judge(info, measured, limits, served=served, served_problem=problem)


def failed(*arguments, **options):
    return [gate.name for gate in judged(*arguments, **options) if gate.status == FAILED]


def changed(part, **values):
    return dataclasses.replace(GOOD, **{part: dataclasses.replace(getattr(GOOD, part), **values)})


def recall(**values):
    return dataclasses.replace(GOOD, recall=GOOD.recall | {name: {"shift": value} for name, value in values.items()})


def test_a_good_encoder_is_blessed():
    gates = judged(GOOD)
    assert {gate.status for gate in gates} == {PASSED}
    assert is_blessed(gates)
    assert len(gates) == 13


@pytest.mark.parametrize(
    "measured, name",
    [
        (changed("spectrum", is_finite=False), "embeddings are finite and of unit length"),
        (changed("spectrum", norm_error=0.5), "embeddings are finite and of unit length"),
        (changed("spectrum", farthest=1e-6), "alive: the embedding depends on the image"),
        (changed("spectrum", effective_rank=2.0), "not collapsed: effective rank"),
        (changed("spectrum", spread=1e-6), "not collapsed: spread"),
        (changed("spectrum", dead_share=0.95), "not collapsed: variance of each dimension"),
        (changed("reconstruction", variation=0.0), "alive: the reconstruction depends on the image"),
        (changed("reconstruction", reported=0.0665, pca=0.07), "alive: reconstructs better than predict-the-mean"),
        (changed("reconstruction", reported=0.001), "the reported error is that of the pictures"),
        (changed("reconstruction", reported=0.021, shown=0.021), "reconstructs better than PCA"),
        (recall(embedding=0.84, served=0.84), "finds originals of altered copies no worse than PCA"),
        (recall(served=0.93), "not worse than the served encoder: recall@1 of altered copies"),
        (
            dataclasses.replace(GOOD, labelled={"embedding": LABELLED, "served": LABELLED | {"map_at_r": 0.63}}),
            "not worse than the served encoder: mAP@R",
        ),
        (dataclasses.replace(GOOD, served_mse=0.008), "not worse than the served encoder: reconstruction"),
    ],
)
def test_each_fault_fails_its_gate(measured, name):
    assert name in failed(measured)
    assert not is_blessed(judged(measured))


def test_tolerances_are_tolerated():
    assert not failed(recall(embedding=0.86, served=0.87))
    assert not failed(dataclasses.replace(GOOD, served_mse=0.0095))
    assert failed(recall(embedding=0.86, served=0.87), limits=GateLimits(pca=0.03))


def test_another_family_need_not_beat_pca():
    worse = changed("reconstruction", reported=0.03, shown=0.03)
    worse = dataclasses.replace(worse, served_mse=None)
    assert failed(worse) == ["reconstructs better than PCA"]
    assert not failed(worse, dataclasses.replace(INFO, family="ours"))
    assert not failed(dataclasses.replace(worse, contents=4999))


def test_a_family_without_a_decoder_is_not_asked_to_reconstruct():
    bare = changed("reconstruction", reported=None, shown=None, variation=None)
    gates = judged(bare, dataclasses.replace(INFO, family="descriptors"))
    assert is_blessed(gates)
    assert sum(gate.status == NOT_JUDGED for gate in gates) == 5


@pytest.mark.parametrize("count", [1, 2, 19])
def test_few_images_fail_nothing_for_lack_of_data(count):
    few = dataclasses.replace(
        GOOD,
        queries=1,
        database=count,
        contents=count,
        spectrum=Spectrum((1.0,), 1.0, 0.0, 1.0, 0.1 if count > 1 else 0.0, True, 0.0),
        reconstruction=dataclasses.replace(RECONSTRUCTION, variation=0.0, mean=0.0, reported=0.3, shown=0.3),
        recall={name: {"shift": 0.0} for name in GOOD.recall},
    )
    gates = judged(few)
    assert is_blessed(gates)
    reasons = [gate.reason for gate in gates if gate.status == NOT_JUDGED]
    assert any("different images" in reason for reason in reasons)


def test_images_that_hardly_differ_fail_nothing_either():
    gates = judged(dataclasses.replace(changed("spectrum", farthest=0.0, spread=0.0), pixel_variance=1e-7))
    assert is_blessed(gates)
    assert any("hardly differ" in gate.reason for gate in gates)


def test_an_encoder_of_no_images_worth_comparing_is_still_seen_to_be_dead():
    """Two images that differ are enough to tell that the embedding doesn't."""
    two = dataclasses.replace(GOOD, database=2)
    assert failed(dataclasses.replace(two, spectrum=dataclasses.replace(SPECTRUM, farthest=0.0))) == [
        "alive: the embedding depends on the image"
    ]


def test_nothing_served_and_a_served_encoder_that_can_not_be_loaded_are_said():
    for served, problem, words in (
        (None, None, "Nothing is served yet."),
        ("release 1", "it is broken", "it is broken"),
    ):
        gates = [gate for gate in judged(GOOD, served=served, problem=problem) if "served" in gate.name]
        assert [(gate.status, gate.reason) for gate in gates] == [(NOT_JUDGED, words)]


def test_the_table_says_failures_first_with_what_to_try():
    text = table([Gate("a", PASSED, "fine", "unused"), Gate("b", FAILED, "0.1 (at least 0.2)", "more epochs")])
    assert text.splitlines() == [
        "FAILED      b",
        "            0.1 (at least 0.2)",
        "            Try: more epochs",
        "PASSED      a",
        "            fine",
    ]


def test_tolerances_must_be_shares():
    with pytest.raises(ValueError, match=r"pca must be in \[0, 1\], got 2"):
        GateLimits(pca=2)


def test_a_code_is_measured_against_the_best_linear_code():
    binary = dataclasses.replace(INFO, family="binary")
    weak = dataclasses.replace(GOOD, recall=GOOD.recall | {"code": {"shift": 0.5}, "itq": {"shift": 0.5}})
    weak = dataclasses.replace(weak, recall=weak.recall | {"served": {"shift": 0.5}})
    assert not failed(weak, binary)
    better = dataclasses.replace(weak, recall=weak.recall | {"itq": {"shift": 0.6}})
    assert failed(better, binary) == ["finds originals of altered copies no worse than ITQ"]


@pytest.mark.parametrize("family", ["pixels", "pca", "itq", "descriptors"])
def test_a_reference_is_not_compared_with_itself(family):
    weak = recall(embedding=0.1, served=0.1) if family != "itq" else recall(embedding=0.1, served=0.1, itq=0.9)
    assert not failed(weak, dataclasses.replace(INFO, family=family))


def test_a_classifier_is_never_blessed_without_labels():
    info = dataclasses.replace(INFO, family="cnn")
    unlabelled = dataclasses.replace(GOOD, labelled={}, labelled_queries=0)
    assert failed(unlabelled, info) == ["agrees with the labels better than PCA"]
    worse = dataclasses.replace(GOOD, labelled=GOOD.labelled | {"pca": LABELLED | {"map_at_r": 0.7}})
    assert failed(worse, info) == ["agrees with the labels better than PCA"]
    better = dataclasses.replace(GOOD, labelled=GOOD.labelled | {"pca": LABELLED | {"map_at_r": 0.5}})
    assert not failed(better, info)
