import hashlib
import pathlib

import apache_beam as beam
import numpy as np
import pytest
import tensorflow as tf
from apache_beam.testing import test_pipeline
from apache_beam.testing.util import assert_that

from components.artifacts import Embeddings
from components.embedder import Embedder, EmbeddingFailed, EmbedExamples, read_encoder_info
from components.embedding import encoding
from components.embedding import parts as embedding_parts
from components.embedding.example_shards import list_shards
from components.embedding.flow import EmbedOptions
from components.ingest.notes import write_contents
from pipeline.beam_options import DIRECT_RUNNER
from serving.images import thumbnail
from serving.release.items import ItemShard
from serving.release.layout import shard_of
from serving.storage import open_store
from tests.components.tiny import DIMENSION, Picture, make_encoder, make_examples, png

PARTS = 4


def run(folder: pathlib.Path, examples, encoder, **parameters):
    """Runs Embedder; returns its Embeddings artifact."""
    embeddings = Embeddings()
    embeddings.uri = str(folder)
    Embedder.test_call(
        examples=examples,
        infra_blessing=encoder.blessing,
        embeddings=embeddings,
        beam_pipeline=beam.Pipeline(DIRECT_RUNNER),
        **{"serving_root": "", "batch_size": 8, "max_failed_share": 0.01, **parameters},
    )
    return embeddings


def read_all(uri: str, parts: int = PARTS):
    """Returns item -> (Item, vector, held out) of an Embeddings artifact, with each item seen once."""
    store = open_store(uri)
    report = embedding_parts.read_report(store)
    found = {}
    for part in range(parts):
        items = list(ItemShard(pathlib.Path(uri) / embedding_parts.items_file(part, parts)))
        vectors = embedding_parts.read_vectors(store, report, part)
        held_out = embedding_parts.read_held_out(store, part, parts)
        assert len(items) == len(vectors) == len(held_out) == report.counts[part]
        assert vectors.dtype == np.float32
        for item, vector, out in zip(items, vectors, held_out, strict=True):
            assert item.item_id not in found
            found[item.item_id] = (item, vector, bool(out))
    return found


def expected(encoder, image: bytes):
    signature = tf.saved_model.load(str(encoder.folder)).signatures["serving_default"]
    return signature(image_bytes=tf.constant([image]))["embedding"].numpy()[0]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return make_encoder(tmp_path_factory.mktemp("encoder") / "blessing")


@pytest.fixture(autouse=True)
def forget_calls(encoder):
    encoder.calls()


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_every_item_gets_the_embedding_of_its_image(tmp_path, encoder, threads):
    pictures = [Picture(f"{n}.png", png(n), "eval" if n % 5 == 0 else "train") for n in range(30)]
    artifact = run(tmp_path / "out", make_examples(tmp_path / "in", pictures, PARTS), encoder, threads=threads)
    calls = encoder.calls()
    found = read_all(artifact.uri)
    assert found.keys() == {picture.item_id for picture in pictures}
    for picture in pictures:
        item, vector, held_out = found[picture.item_id]
        np.testing.assert_allclose(vector, expected(encoder, picture.image), atol=1e-6)
        assert held_out == (picture.split == "eval")
        assert item.uri == f"/images/{picture.item_id}"
    assert sum(calls) == 30
    assert max(calls) <= 8
    description = embedding_parts.read_encoder(open_store(artifact.uri))
    info, digest = read_encoder_info(encoder.folder)
    assert (description["digest"], description["info"]["dimension"]) == (digest, info.dimension)


def test_a_list_of_other_contents_is_told(tmp_path, encoder):
    pictures = [Picture(f"{n}.png", png(n)) for n in range(12)]
    examples = make_examples(tmp_path / "in", pictures, PARTS)
    mine = [picture for picture in pictures if shard_of(picture.item_id, PARTS) == 1]
    others = [hashlib.sha256(picture.image).hexdigest() for picture in mine[1:] + mine[:1]]
    write_contents(open_store(examples.uri), 1, PARTS, others)
    with pytest.raises(Exception, match="hold other images than their list of contents"):
        run(tmp_path / "out", examples, encoder)


@pytest.mark.parametrize("beside", ["items", "contents"])
def test_examples_of_another_version_are_told(tmp_path, encoder, beside):
    examples = make_examples(tmp_path / "in", [Picture("a.png", png(0))], 1)
    for file in (tmp_path / "in" / beside).iterdir():
        file.unlink()
    with pytest.raises(Exception, match=f"must hold {beside}/.*: its examples are of another version, ingest again"):
        run(tmp_path / "out", examples, encoder)


def test_train_comes_before_eval_in_record_order(tmp_path, encoder):
    pictures = [Picture(f"{n}.png", png(n), "eval" if n % 2 else "train") for n in range(12)]
    artifact = run(tmp_path / "out", make_examples(tmp_path / "in", pictures, 1), encoder)
    order = list(read_all(artifact.uri, 1))
    assert order == [f"{n}.png" for n in range(0, 12, 2)] + [f"{n}.png" for n in range(1, 12, 2)]


def test_attributes_label_and_thumbnail_are_kept(tmp_path, encoder):
    large = png(2, side=120)
    pictures = [
        Picture("small.png", png(1), attributes={"label": "7", "year": 1998, "share": 0.5, "place": "Paris"}),
        Picture("large.png", large, side=120),
    ]
    found = read_all(run(tmp_path / "out", make_examples(tmp_path / "in", pictures, PARTS), encoder).uri)
    small, other = found["small.png"][0], found["large.png"][0]
    assert small.attributes == {"label": "7", "year": 1998, "share": 0.5, "place": "Paris"}
    assert small.thumbnail == png(1)
    assert other.thumbnail == thumbnail(large, 96) != large


def test_identical_content_is_encoded_once(tmp_path, encoder):
    pictures = [Picture(f"{n}.png", png(n % 5)) for n in range(40)]
    artifact = run(tmp_path / "out", make_examples(tmp_path / "in", pictures, PARTS), encoder)
    assert sum(encoder.calls()) == 5
    found = read_all(artifact.uri)
    assert len(found) == 40
    for n in range(40):
        np.testing.assert_allclose(found[f"{n}.png"][1], expected(encoder, png(n % 5)), atol=1e-6)


@pytest.mark.slow
def test_a_collection_of_one_content_is_encoded_in_one_call(tmp_path, encoder):
    pictures = [Picture(f"{n}.png", png(0)) for n in range(20)]
    artifact = run(tmp_path / "out", make_examples(tmp_path / "in", pictures, PARTS), encoder)
    assert encoder.calls() == [1]
    assert len(read_all(artifact.uri)) == 20


def test_one_image_whose_eval_split_is_its_train_split_is_one_item_held_out(tmp_path, encoder):
    pictures = [Picture("a.png", png(0), "train"), Picture("a.png", png(0), "eval")]
    artifact = run(tmp_path / "out", make_examples(tmp_path / "in", pictures, PARTS), encoder)
    ((item, vector, held_out),) = read_all(artifact.uri).values()
    assert (item.item_id, held_out) == ("a.png", True)
    assert np.linalg.norm(vector) == pytest.approx(1)


@pytest.mark.parametrize("few", [0, 256])
def test_what_an_earlier_run_embedded_is_not_encoded_again(tmp_path, encoder, monkeypatch, few):
    monkeypatch.setattr(encoding, "_FEW_NEW", few)
    root = str(tmp_path / "root")
    first = [Picture(f"{n}.png", png(n)) for n in range(20)]
    before = read_all(run(tmp_path / "one", make_examples(tmp_path / "a", first), encoder, serving_root=root).uri)
    assert sum(encoder.calls()) == 20
    assert (len(list((tmp_path / "root").rglob("*.keys.npy"))) == 1) == (few > 0)
    # Other names, other shards, five new ones: only content counts.
    second = [Picture(f"other/{n}.png", png(n)) for n in range(5, 25)]
    artifact = run(tmp_path / "two", make_examples(tmp_path / "b", second, 2), encoder, serving_root=root)
    assert sum(encoder.calls()) == 5
    after = read_all(artifact.uri, 2)
    for n in range(5, 20):
        assert after[f"other/{n}.png"][1].tobytes() == before[f"{n}.png"][1].tobytes()
    report = embedding_parts.read_report(open_store(artifact.uri))
    assert (report.contents, report.encoded, report.cached) == (20, 5, 15)


@pytest.mark.slow
def test_another_encoder_does_not_use_the_embeddings_of_the_first(tmp_path, encoder):
    root = str(tmp_path / "root")
    examples = make_examples(tmp_path / "in", [Picture(f"{n}.png", png(n)) for n in range(6)])
    run(tmp_path / "one", examples, encoder, serving_root=root)
    other = make_encoder(tmp_path / "other", seed=1)
    artifact = run(tmp_path / "two", examples, other, serving_root=root)
    assert sum(other.calls()) == 6
    np.testing.assert_allclose(read_all(artifact.uri)["3.png"][1], expected(other, png(3)), atol=1e-6)


@pytest.mark.slow
def test_a_damaged_cache_costs_time_not_truth(tmp_path, encoder):
    root = tmp_path / "root"
    examples = make_examples(tmp_path / "in", [Picture(f"{n}.png", png(n)) for n in range(10)])
    run(tmp_path / "one", examples, encoder, serving_root=str(root))
    for file in root.rglob("*.vectors.npy"):
        content = bytearray(file.read_bytes())
        content[-2] ^= 0x40
        file.write_bytes(content)
    encoder.calls()
    artifact = run(tmp_path / "two", examples, encoder, serving_root=str(root))
    assert sum(encoder.calls()) == 10
    np.testing.assert_allclose(read_all(artifact.uri)["3.png"][1], expected(encoder, png(3)), atol=1e-6)


def test_a_bad_image_costs_one_image(tmp_path, encoder):
    bad = png(3)[:40]
    pictures = [Picture(f"{n}.png", bad if n == 3 else png(n)) for n in range(20)] + [Picture("copy.png", bad)]
    examples = make_examples(tmp_path / "in", pictures, PARTS)
    artifact = run(tmp_path / "out", examples, encoder, max_failed_share=0.2)
    found = read_all(artifact.uri)
    assert found.keys() == {f"{n}.png" for n in range(20) if n != 3}
    for n in (0, 2, 4, 19):
        np.testing.assert_allclose(found[f"{n}.png"][1], expected(encoder, png(n)), atol=1e-6)
    report = embedding_parts.read_report(open_store(artifact.uri))
    assert {failure["item_id"] for failure in report.failed} == {"3.png", "copy.png"}
    assert report.items == 21


def test_too_many_bad_images_fail_the_run(tmp_path, encoder):
    pictures = [Picture(f"{n}.png", png(n)[:40] if n < 2 else png(n)) for n in range(20)]
    examples = make_examples(tmp_path / "in", pictures, PARTS)
    with pytest.raises(EmbeddingFailed, match=r"may refuse 1.00% of the images, it refused 2 of 20"):
        run(tmp_path / "out", examples, encoder)


@pytest.mark.slow
def test_a_collection_of_bad_images_fails_whatever_share_may(tmp_path, encoder):
    examples = make_examples(tmp_path / "in", [Picture("a.png", b"no image")], PARTS)
    with pytest.raises(EmbeddingFailed, match="refused 1 of 1"):
        run(tmp_path / "out", examples, encoder, max_failed_share=1.0)


def test_no_items_at_all_fail(tmp_path, encoder):
    with pytest.raises(EmbeddingFailed, match="at least one item"):
        run(tmp_path / "out", make_examples(tmp_path / "in", []), encoder)


def test_an_encoder_that_was_not_blessed_is_not_used(tmp_path, encoder):
    other = make_encoder(tmp_path / "other")
    other.blessing.set_int_custom_property("blessed", 0)
    with pytest.raises(ValueError, match="did not pass its validation"):
        run(tmp_path / "out", make_examples(tmp_path / "in", [Picture("a.png", png(0))]), other)


def test_an_encoder_without_unit_length_is_not_used(tmp_path):
    other = make_encoder(tmp_path / "other", normalised=False)
    with pytest.raises(ValueError, match="unit length"):
        run(tmp_path / "out", make_examples(tmp_path / "in", [Picture("a.png", png(0))]), other)


def test_the_transform_reports_what_it_did(tmp_path, encoder):
    pictures = [Picture(f"{n}.png", png(n % 3), "eval" if n == 0 else "train") for n in range(6)]
    examples = make_examples(tmp_path / "in", pictures, 2).uri
    shards = list_shards(examples)
    _, digest = read_encoder_info(encoder.folder)
    options = EmbedOptions(str(encoder.folder), digest, DIMENSION, str(tmp_path / "out"), "", 4, examples)

    def is_right(reports):
        (report,) = reports
        assert sum(report.counts) == report.items == 6
        assert (report.held_out, report.contents, report.encoded, report.cached) == (1, 3, 3, 0)
        assert report.dimension == DIMENSION

    with test_pipeline.TestPipeline(DIRECT_RUNNER) as pipeline:
        assert_that(pipeline | beam.Create(shards) | EmbedExamples(options, shards), is_right)


def test_splits_of_other_sizes_are_no_examples_of_ours(tmp_path):
    artifact = make_examples(tmp_path / "in", [], 2)
    (tmp_path / "in" / "Split-eval" / "data_tfrecord-00001-of-00002.gz").unlink()
    with pytest.raises(ValueError, match="must hold 2 shards"):
        list_shards(artifact.uri)


@pytest.mark.parametrize("batch_size", [0, 5000])
def test_the_batch_size_has_limits(batch_size):
    with pytest.raises(ValueError, match=r"batch_size must be in \[1, 4096\]"):
        EmbedOptions("encoder", "digest", 16, "out", "", batch_size, "in")


@pytest.mark.parametrize("threads", [-1, 2000])
def test_the_threads_have_limits(threads):
    with pytest.raises(ValueError, match=r"threads must be in \[0, 1024\]"):
        EmbedOptions("encoder", "digest", 16, "out", "", 256, "in", threads=threads)
