import json
import pathlib
import shutil

import numpy as np
import pytest

from pipeline import demonstration
from serving.client import QueryFailed
from serving.images import canonicalize
from serving.release.distribution import Distribution
from serving.release.encoder_info import EncoderInfo
from tests.e2e.lookalike import last_run, run

pytestmark = pytest.mark.slow


def copied(published: pathlib.Path, digits, tmp_path: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    """A collection of one's own and a root that was published from it: what a test may change."""
    images, root = tmp_path / "images", tmp_path / "root"
    shutil.copytree(digits.images, images)
    done = run(images, root)
    assert done.returncode == 0, done.stderr[-5000:]
    return images, root


def test_the_service_answers_from_the_release(published, digits, tmp_path):
    with demonstration.service(published / "serving", tmp_path) as service:
        client = service.client
        release = client.get_release()
        assert release.release_id == last_run(published)["release_id"]
        assert release.count == 300

        # A file of the collection is nearest to itself; as an item it leaves itself out.
        inside = sorted(digits.images.rglob("*.png"))[7]
        item_id = inside.relative_to(digits.images).as_posix()
        answer = client.search(image=inside.read_bytes(), k=5)
        assert answer.neighbors[0].item.item_id == item_id
        assert answer.neighbors[0].score == pytest.approx(1.0, abs=1e-5)
        assert answer.encoder_version == release.encoder_version
        by_id = client.search(item_id=item_id, k=4)
        assert [n.item.item_id for n in by_id.neighbors] == [n.item.item_id for n in answer.neighbors[1:]]

        # Held-out digits find more of their own kind than chance (1 in 10), by a network of two epochs.
        hits = []
        for query in digits.queries:
            neighbors = client.search(image=query.read_bytes(), k=5).neighbors
            hits += [neighbor.item.attributes["label"] == query.parent.name for neighbor in neighbors]
            by_vector = client.search(vector=client.encode(query.read_bytes()).values, k=5).neighbors
            assert [n.item.item_id for n in by_vector] == [n.item.item_id for n in neighbors]
        assert np.mean(hits) > 0.4

        item = client.get_item(item_id, thumbnail=True)
        assert item.sha256 == canonicalize(inside.read_bytes()).sha256
        assert (item.width, item.height, item.attributes["label"]) == (28, 28, inside.parent.name)
        assert canonicalize(item.thumbnail).width == 28
        with pytest.raises(QueryFailed, match=r"no item 'no/such\.png'") as refused:
            client.get_item("no/such.png")
        assert refused.value.code == "NOT_FOUND"

        images, errors = demonstration.reconstruct(
            service.encoder, release.encoder_version, [query.read_bytes() for query in digits.queries[:3]]
        )
        assert images[0].shape == (28, 28, 1) and all(0 < error < 0.25 for error in errors)


def test_a_release_carries_what_a_gateway_compares_its_queries_with(published):
    serving = published / "serving"
    release = serving / "releases" / last_run(published)["release_id"]
    manifest = json.loads((release / "release.json").read_text())
    scores = Distribution.from_dict(manifest["evaluation"]["top1_scores"])
    assert scores.count == manifest["evaluation"]["queries"] > 0
    assert 0 < scores.percentiles[0] < scores.percentiles[100] <= 1.00001
    encoder = serving / "encoders" / "encoder" / str(manifest["encoder"]["version"])
    metrics = EncoderInfo.from_json((encoder / "assets.extra" / "lookalike_encoder.json").read_bytes()).metrics
    errors = Distribution.from_dict(metrics["reconstruction_errors"])
    assert errors.percentiles[0] < metrics["reconstruction_mse"] < errors.percentiles[100] < 0.25


def test_an_unchanged_run_executes_nothing_but_publishers_check(published, digits):
    before = last_run(published)
    done = run(digits.images, published, "ingest.label_from=folder")
    assert done.returncode == 0, done.stderr[-5000:]
    after = last_run(published)
    assert set(after["components"]) == {"Publisher"}
    assert len(after["cached"]) == 14
    assert after["release_id"] == before["release_id"]
    assert len(list((published / "serving" / "releases").iterdir())) == 1


def test_changed_images_make_a_new_release_and_a_bad_encoder_none(published, digits, tmp_path):
    images, root = copied(published, digits, tmp_path)
    first = last_run(root)["release_id"]

    # The same size, the same second, another content.
    victim, other = sorted(images.rglob("*.png"))[:2]
    victim.write_bytes(other.read_bytes())
    removed = sorted(images.rglob("*.png"))[-1]
    removed.unlink()
    done = run(images, root)
    assert done.returncode == 0, done.stderr[-5000:]
    second = last_run(root)
    assert second["release_id"] != first
    assert {"ImageExampleGen", "Trainer", "Embedder", "Publisher"} <= set(second["components"])
    manifest = json.loads((root / "serving" / "releases" / second["release_id"] / "release.json").read_text())
    assert manifest["index"]["count"] == 299
    assert manifest["parent"] == first
    assert manifest["lineage"]["config"]["training"]["epochs"] == 2

    # An encoder that is not good enough stops the run; what is served goes on, and with it what a reindex is told.
    config = (root / "pipeline" / "config.json").read_text()
    done = run(images, root, "evaluation.max_mse=0.000001")
    assert done.returncode == 1
    assert (root / "pipeline" / "config.json").read_text() == config
    assert "did not bless the model" in done.stderr
    assert (root / "serving" / "CURRENT").read_text().strip() == second["release_id"]
