import json
import pathlib

import apache_beam as beam
import numpy as np
import pytest

from components.artifacts import VectorIndex
from components.index_builder import (
    BuildOptions,
    IndexBuilder,
    family_parameters,
    override_parameters,
    read_index,
)
from components.index_shards import parts_of_shard, shard_counts
from pipeline.beam_options import DIRECT_RUNNER
from serving.index import IndexParameters, load_index
from serving.release import layout
from serving.release.items import ItemShard
from tests.components.tiny import make_embeddings


def build(folder: pathlib.Path, embeddings, **parameters):
    """Runs IndexBuilder; returns its VectorIndex artifact."""
    index = VectorIndex()
    index.uri = str(folder)
    IndexBuilder.test_call(
        embeddings=embeddings,
        index=index,
        beam_pipeline=beam.Pipeline(DIRECT_RUNNER),
        **{"shards": 1, "parameters": "", **parameters},
    )
    return index


@pytest.mark.parametrize("shards", [1, 2, 4])
def test_every_shard_holds_its_items_in_the_order_of_its_embeddings(tmp_path, shards):
    embeddings, vectors = make_embeddings(tmp_path / "in", 50, parts=4)
    artifact = build(tmp_path / "out", embeddings, shards=shards)
    described = read_index(artifact.uri)
    seen = {}
    for shard, entry in enumerate(described["shards"]):
        rows = np.load(tmp_path / "out" / layout.embeddings_file(shard, shards))
        items = list(ItemShard(tmp_path / "out" / layout.items_file(shard, shards)))
        assert entry["count"] == len(rows) == len(items)
        assert rows.dtype == np.float32
        for item, row in zip(items, rows, strict=True):
            assert layout.shard_of(item.item_id, shards) == shard
            assert item.thumbnail == item.item_id.encode()
            seen[item.item_id] = row
        index = load_index(tmp_path / "out" / layout.index_folder(shard, shards), rows)
        assert index.search(rows[:1], 1)[0][0, 0] == 0
    assert seen.keys() == vectors.keys()
    for item_id, vector in vectors.items():
        np.testing.assert_array_equal(seen[item_id], vector)
    assert (described["count"], described["dimension"], described["metric"]) == (50, 8, "cosine")
    assert described["encoder_digest"] == "d" * 64


def test_one_item_is_enough_and_shards_may_be_empty(tmp_path):
    embeddings, _ = make_embeddings(tmp_path / "in", 1, parts=4)
    artifact = build(tmp_path / "out", embeddings, shards=2)
    assert sorted(entry["count"] for entry in read_index(artifact.uri)["shards"]) == [0, 1]


def test_small_collections_get_brute_force_unless_told_otherwise(tmp_path):
    embeddings, _ = make_embeddings(tmp_path / "in", 60)
    assert read_index(build(tmp_path / "one", embeddings).uri)["kind"] == "brute_force"
    wanted = json.dumps({"kind": "tree", "leaves": 5, "leaves_to_search": 2})
    described = read_index(build(tmp_path / "two", embeddings, parameters=wanted).uri)
    assert described["kind"] == "tree"
    assert IndexParameters.from_dict(described["parameters"]).leaves == 5


def test_codes_of_bits_are_compared_as_such():
    assert family_parameters(1_000_000, 64, "convolutional", "").kind == "tree"
    binary = family_parameters(1_000_000, 64, "binary", "")
    assert (binary.kind, binary.reorder) == ("hamming", 8000)
    assert family_parameters(100, 64, "itq", '{"reorder": 7}') == IndexParameters("hamming", reorder=7)
    assert family_parameters(100, 64, "convolutional", '{"kind": "hamming"}').reorder == 1000
    assert family_parameters(100, 64, "binary", '{"kind": "exact"}').kind == "exact"


def test_no_items_are_no_index(tmp_path):
    embeddings, _ = make_embeddings(tmp_path / "in", 0)
    with pytest.raises(ValueError, match="at least one item"):
        build(tmp_path / "out", embeddings)


@pytest.mark.parametrize("shards", [0, 3, 5])
def test_shards_must_divide_the_parts(shards):
    with pytest.raises(ValueError, match=f"must divide the 4 parts of the embeddings, got {shards}"):
        BuildOptions("in", "out", 4, shards)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("[1]", "must be a JSON object"),
        ('{"leafs": 3}', "unknown index parameters: leafs"),
        ('{"leaves": 0}', "leaves must be a whole number of at least 1, got 0"),
        ("kind=tree", "Expecting value"),
    ],
)
def test_parameters_that_mean_nothing_are_refused(overrides, message):
    with pytest.raises(ValueError, match=message):
        override_parameters(IndexParameters(), overrides)


def test_parts_are_dealt_to_shards_by_their_hash():
    assert list(parts_of_shard(1, 2, 8)) == [1, 3, 5, 7]
    assert shard_counts((1, 2, 3, 4), 2) == [4, 6]
