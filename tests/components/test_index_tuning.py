"""The parameters of an index, found in the build and kept by the next one."""

import dataclasses
import json
import pathlib

import apache_beam as beam
import numpy as np
import pytest

from components.artifacts import BaseRelease, IndexEvaluation, VectorIndex
from components.index_builder import IndexBuilder, family_parameters, read_index
from components.index_evaluator import IndexEvaluator
from components.index_shards import held_out_rows
from components.tuning.options import TuningOptions
from components.tuning.plan import plan
from pipeline.beam_options import DIRECT_RUNNER
from serving.index import Choice, HeldOut, IndexParameters, load_index, read_parameters
from serving.release import layout
from serving.release.manifest import EncoderRef, FileEntry, IndexRef, Manifest, Shard
from serving.storage import open_store
from tests.components.tiny import make_embeddings

TUNING = {"target": 0.9, "search": {"queries": 100, "leaves": [1.0], "hash_dimensions": [2], "spill": False}}
TREE = {"kind": "tree", "training_sample": 2000}


def build(folder: pathlib.Path, embeddings, *, tuning=TUNING, parameters=TREE, shards=2, base=None) -> VectorIndex:
    index = VectorIndex()
    index.uri = str(folder)
    IndexBuilder.test_call(
        embeddings=embeddings,
        index=index,
        shards=shards,
        parameters=json.dumps(parameters),
        tuning=json.dumps(tuning),
        duplicates='{"enabled": false}',
        beam_pipeline=beam.Pipeline(DIRECT_RUNNER),
        **({"base": base} if base else {}),
    )
    return index


def make_base(folder: pathlib.Path, index: VectorIndex, evaluation: dict, **changes) -> BaseRelease:
    """Returns the base that a release of this index would be, as ReleaseEncoder writes it."""
    described = {**read_index(index.uri), **changes}
    shards = []
    for number, entry in enumerate(described["shards"]):
        names = (f"{entry['index']}/parameters.json", entry["embeddings"], entry["items"])
        files = tuple(FileEntry(name, 1, "0" * 64) for name in names)
        shards.append(Shard(entry["index"], entry["embeddings"], entry["items"], entry["count"], files))
        assert layout.index_folder(number, len(described["shards"])) == entry["index"]
    encoder = EncoderRef("encoder", 1, described["encoder_digest"], described["dimension"], True)
    reference = IndexRef(described["kind"], "cosine", described["count"], described["parameters"], tuple(shards))
    manifest = Manifest("20260101T000000Z-1", 0.0, None, encoder, reference, (), 0.5, evaluation, {})
    artifact = BaseRelease()
    artifact.uri = str(folder)
    open_store(artifact.uri).write(layout.MANIFEST, manifest.to_json())
    return artifact


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """An index of two shards whose parameters were searched, and its evaluation."""
    folder = tmp_path_factory.mktemp("built")
    embeddings, _ = make_embeddings(folder / "in", 4000, parts=2)
    index = build(folder / "index", embeddings)
    evaluation = IndexEvaluation()
    evaluation.uri = str(folder / "evaluation")
    IndexEvaluator.test_call(
        index=index,
        embeddings=embeddings,
        evaluation=evaluation,
        min_recall=0.8,
        beam_pipeline=beam.Pipeline(DIRECT_RUNNER),
    )
    return embeddings, index, folder


@pytest.mark.slow
def test_what_was_found_is_in_every_shard_and_finds_enough(built):
    embeddings, artifact, folder = built
    described = read_index(artifact.uri)
    parameters, tuning = IndexParameters.from_dict(described["parameters"]), described["tuning"]
    assert tuning["method"] == "search" and tuning["fixed"] == TREE
    assert parameters.kind == "tree" and parameters.training_sample == 2000
    calibrated = Choice.from_dict(tuning["calibration"])
    assert calibrated.parameters == parameters and calibrated.met and calibrated.point in calibrated.frontier
    search = Choice.from_dict(tuning["search"])
    assert search.parameters.built_like(parameters) and search.met
    recalls = []
    for shard, entry in enumerate(described["shards"]):
        at = folder / "index" / entry["index"]
        assert read_parameters(at) == (parameters, (entry["count"], 8))
        vectors = np.load(folder / "index" / entry["embeddings"], mmap_mode="r")
        rows = held_out_rows(open_store(embeddings.uri), shard, 2, 100, 1)
        recalls.append(HeldOut(vectors, vectors[rows], rows).recall(load_index(at, vectors, parameters)))
    largest = max(range(2), key=lambda shard: described["shards"][shard]["count"])
    assert recalls[largest] == calibrated.point.recall >= 0.9


@pytest.mark.slow
def test_the_frontier_is_in_the_evaluation_and_its_page(built):
    _, artifact, folder = built
    evaluation = json.loads((folder / "evaluation" / "evaluation.json").read_text())
    assert evaluation["tuning"] == read_index(artifact.uri)["tuning"]
    page = (folder / "evaluation" / "evaluation.html").read_text()
    assert evaluation["duplicates"] == read_index(artifact.uri)["duplicates"]
    assert "Near-duplicates were not looked for" in page and page.count("<img") == 1
    assert "for a recall@10 of 0.9 at the least time" in page and page.count('<tr class="chosen">') == 2
    assert page.count("<tr") == 2 + len(evaluation["tuning"]["calibration"]["frontier"]) + len(
        evaluation["tuning"]["search"]["frontier"]
    )


@pytest.mark.slow
def test_a_reindex_keeps_the_parameters_of_its_base(built, tmp_path):
    embeddings, index, folder = built
    evaluation = json.loads((folder / "evaluation" / "evaluation.json").read_text())
    before = read_index(index.uri)
    # More than is needed, so that a search would find others.
    high = {**before["parameters"], "leaves_to_search": before["parameters"]["leaves"], "reorder": 1000}
    base = make_base(tmp_path / "base", index, evaluation, parameters=high)
    after = read_index(build(tmp_path / "again", embeddings, base=base).uri)
    assert after["parameters"] == high
    assert after["tuning"] == {**before["tuning"], "method": "base"}


@pytest.mark.slow
def test_where_recall_has_fallen_an_index_is_searched_harder(built, tmp_path):
    embeddings, index, folder = built
    evaluation = json.loads((folder / "evaluation" / "evaluation.json").read_text())
    low = {**read_index(index.uri)["parameters"], "leaves_to_search": 1, "reorder": 10}
    base = make_base(tmp_path / "base", index, evaluation, parameters=low)
    again = read_index(build(tmp_path / "again", embeddings, base=base).uri)
    calibrated = Choice.from_dict(again["tuning"]["calibration"])
    assert calibrated.met and again["parameters"] == calibrated.parameters.to_dict() != low
    assert IndexParameters.from_dict(again["parameters"]).built_like(IndexParameters.from_dict(low))


@pytest.mark.slow
def test_no_more_memory_is_taken_than_allowed(tmp_path):
    embeddings, _ = make_embeddings(tmp_path / "in", 2000, parts=1)
    index = build(tmp_path / "out", embeddings, tuning={**TUNING, "bytes_per_item": 12}, parameters={}, shards=1)
    described = read_index(index.uri)
    parameters = IndexParameters.from_dict(described["parameters"])
    assert (parameters.scoring, parameters.rerank) == ("hash", "file")
    assert parameters.bytes_per_item(8) <= 12 and Choice.from_dict(described["tuning"]["calibration"]).met


RULE = family_parameters(50_000, 64, "", "")


DEFAULT = TuningOptions()


def planned(options=DEFAULT, rule=RULE, stated=None, largest=50_000, **arguments):
    given = {"dimension": 64, "encoder_digest": "d" * 64, **arguments}
    return plan(options, rule, stated or {}, largest=largest, **given)


def test_a_search_is_for_large_shards_and_what_is_not_given():
    assert planned().method == "search" and planned().fixed == {"kind": "tree"}
    assert planned(TuningOptions(method="rule")).method == "rule"
    small = family_parameters(19_999, 64, "", "")
    assert planned(rule=small, largest=19_999).method == "rule"
    # Unless they don't fit.
    assert planned(TuningOptions(bytes_per_item=100), small, largest=19_999).fixed == {"kind": "tree"}
    assert planned(rule=small, largest=999, options=TuningOptions(bytes_per_item=100)).method == "rule"
    hand = '{"leaves": 9, "leaves_to_search": 3}'
    by_hand = planned(rule=family_parameters(50_000, 64, "", hand), stated=json.loads(hand))
    assert (by_hand.method, by_hand.parameters.leaves) == ("rule", 9)
    stated = {"kind": "exact"}
    assert planned(rule=family_parameters(50_000, 64, "", json.dumps(stated)), stated=stated).method == "rule"
    binary = family_parameters(5000, 64, "binary", "")
    assert planned(rule=binary, largest=5000).fixed == {"kind": "hamming"}
    assert planned(rule=binary, largest=5000, stated={"reorder": 50}).method == "rule"


def test_a_base_is_kept_only_where_the_same_was_asked_for():
    tuning = {"options": DEFAULT.to_dict(), "fixed": {"kind": "tree"}, "largest": 50_000}
    names = layout.embeddings_file(0, 1), layout.items_file(0, 1)
    files = tuple(FileEntry(name, 1, "0" * 64) for name in names)
    shard = Shard(layout.index_folder(0, 1), *names, 50_000, files)
    reference = IndexRef("tree", "cosine", 50_000, RULE.to_dict(), (shard,))
    encoder = EncoderRef("encoder", 1, "d" * 64, 64, True)
    base = Manifest("20260101T000000Z-1", 0.0, None, encoder, reference, (), 0.5, {"tuning": tuning}, {})
    kept = planned(base=base)
    assert (kept.method, kept.parameters, kept.base) == ("base", RULE, tuning)
    assert planned(base=base, largest=74_000).method == "base"
    assert planned(base=base, largest=76_000).method == "search"
    assert planned(base=base, largest=33_000).method == "search"
    assert planned(dataclasses.replace(DEFAULT, target=0.9), base=base).method == "search"
    assert planned(base=base, stated={"spill": True}).method == "search"
    assert planned(base=base, encoder_digest="e" * 64).method == "search"
    for evaluation in ({}, {"tuning": None}, {"tuning": {"method": "rule"}}):
        assert planned(base=dataclasses.replace(base, evaluation=evaluation)).method == "search"


def test_options_are_read_from_json():
    assert TuningOptions.from_json("") == TuningOptions()
    read = TuningOptions.from_json('{"target": 0.9, "search": {"leaves": [1, 2]}}')
    assert (read.target, read.search.leaves) == (0.9, (1, 2))
    assert TuningOptions.from_json(json.dumps(read.to_dict())) == read
    for wrong, message in (
        ("[1]", "must be a JSON object"),
        ('{"target": 0}', r"tuning.target must be in \(0, 1\], got 0"),
        ('{"method": "guess"}', "tuning.method must be one of"),
        ('{"bytes_per_item": -1}', "tuning.bytes_per_item must be"),
        ('{"recall": 1}', "unknown options of tuning: recall"),
        ('{"search": {"leafs": 1}}', "unknown options of tuning.search: leafs"),
    ):
        with pytest.raises(ValueError, match=message):
            TuningOptions.from_json(wrong)
