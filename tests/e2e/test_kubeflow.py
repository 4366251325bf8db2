"""Both pipelines, compiled for Kubeflow and executed step by step as its launcher does, beside the local runner."""

import concurrent.futures
import contextlib
import json
import pathlib
import shutil
import types

import numpy as np
import pytest
import yaml

from components.evaluation.exported_encoder import ExportedEncoder
from serving.images import canonicalize
from serving.release.encoder_info import EncoderInfo
from serving.release.items import ItemShard
from tests.e2e.compiled import CompiledRun
from tests.e2e.lookalike import QUICK, lookalike

pytestmark = pytest.mark.slow

CONFIG = [*QUICK, "ingest.label_from=folder", "encoder.height=28", "encoder.width=28", "encoder.channels=1"]


def compiled(pipeline: str, images: pathlib.Path, root: pathlib.Path, *options: str) -> pathlib.Path:
    """Returns the file of a pipeline, compiled by the command."""
    root.mkdir(exist_ok=True)
    file = root / f"{pipeline}.yaml"
    flags = [flag for option in [*CONFIG, *options] for flag in ("--set", option)]
    roots = ["--images", str(images), "--root", str(root / "root"), "--serving-root", str(root / "serving")]
    done = lookalike("compile", "--pipeline", pipeline, "--image", "image:1", "--output", str(file), *roots, *flags)
    assert done.returncode == 0, done.stderr[-5000:]
    return file


@pytest.fixture(scope="module")
def runs(published, digits, tmp_path_factory) -> types.SimpleNamespace:
    """A compiled training run from nothing; a compiled and a local reindex of changed images, of the same release."""
    folder = tmp_path_factory.mktemp("kubeflow")
    changed = folder / "changed"
    shutil.copytree(digits.images, changed)
    files = sorted(changed.rglob("*.png"))
    files[0].unlink()
    shutil.copy(digits.queries[0], files[1])
    for number, query in enumerate(digits.queries[1:5]):
        shutil.copy(query, changed / "3" / f"new-{number}.png")
    for name in ("compiled", "local"):
        shutil.copytree(published / "serving", folder / name / "serving")

    def train() -> CompiledRun:
        # What is compiled in is not what the run is told.
        elsewhere = pathlib.Path("/nowhere")
        file = compiled("training", elsewhere, folder / "training", "training.epochs=7")
        told = {"images": str(digits.images), "serving_root": str(folder / "training" / "published"), "epochs": 2}
        run = CompiledRun(file, folder / "training" / "artifacts", told)
        run.run()
        return run

    def reindex() -> CompiledRun:
        file = compiled("reindex", changed, folder / "compiled")
        run = CompiledRun(file, folder / "compiled" / "artifacts")
        run.run()
        flags = [flag for option in CONFIG for flag in ("--set", option)]
        roots = ["--root", str(folder / "local" / "root"), "--serving-root", str(folder / "local" / "serving")]
        done = lookalike("reindex", "--images", str(changed), *roots, *flags)
        assert done.returncode == 0, done.stderr[-5000:]
        return run

    with concurrent.futures.ThreadPoolExecutor() as pool:
        trained, reindexed = pool.submit(train), pool.submit(reindex)
        return types.SimpleNamespace(
            training=trained.result(), reindex=reindexed.result(), folder=folder, changed=changed
        )


def current(serving: pathlib.Path) -> tuple[dict, dict[str, np.ndarray], pathlib.Path]:
    """Returns the manifest of the current release, the embedding of each item, and the folder of its encoder."""
    release = serving / "releases" / (serving / "CURRENT").read_text().strip()
    manifest = json.loads((release / "release.json").read_text())
    vectors = {}
    for shard in manifest["index"]["shards"]:
        rows = np.load(release / shard["embeddings"])
        with contextlib.closing(ItemShard(release / shard["items"])) as items:
            vectors.update({item.item_id: row for item, row in zip(items, rows, strict=True)})
    encoder = manifest["encoder"]
    return manifest, vectors, serving / "encoders" / encoder["model"] / str(encoder["version"])


def cosines(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> np.ndarray:
    return np.array([one[name] @ other[name] / np.linalg.norm(one[name]) / np.linalg.norm(other[name]) for name in one])


def test_every_step_of_both_specs_was_executed(runs):
    for run, count in ((runs.training, 15), (runs.reindex, 6)):
        tasks = next(iter(yaml.safe_load_all(run.file.read_text())))["root"]["dag"]["tasks"]
        assert set(run.seconds) == set(tasks) and len(tasks) == count
        driver = run.artifact("ImageExampleGen", "examples").parent / "ImageExampleGen driver.log"
        assert "Calculated fingerprint: split:level-1,num_files:" in driver.read_text()


def test_the_compiled_training_pipeline_publishes_what_the_local_runner_does(runs, published, digits):
    manifest, vectors, encoder = current(runs.folder / "training" / "published")
    _, local, _ = current(published / "serving")
    assert set(vectors) == set(local) and len(vectors) == 300

    # By the same encoder in this process.
    names = sorted(vectors)
    images = [canonicalize((digits.images / name).read_bytes()).data for name in names]
    embedded = ExportedEncoder(str(encoder)).embed(images)
    assert cosines(vectors, dict(zip(names, embedded, strict=True))).min() >= 0.9999

    # What the run was told, and not what was compiled in.
    assert manifest["lineage"]["run"] == runs.training.run_id
    assert manifest["lineage"]["data"]["images"] == str(digits.images)
    assert "epochs" not in manifest["lineage"]["config"]["training"]
    info = EncoderInfo.from_json((encoder / "assets.extra" / "lookalike_encoder.json").read_bytes())
    assert info.dimension == 16
    history = json.loads((encoder / "assets.extra" / "lookalike_training.json").read_text())["history"]
    assert len(history["loss"]) == 2
    assert not (runs.folder / "training" / "serving").exists()


def test_the_compiled_reindex_publishes_what_the_local_runner_does(runs, published):
    before, old, _ = current(published / "serving")
    manifest, vectors, _ = current(runs.folder / "compiled" / "serving")
    _, local, _ = current(runs.folder / "local" / "serving")
    assert manifest["parent"] == before["release_id"]
    assert manifest["encoder"] == before["encoder"]
    assert set(vectors) == set(local) == {p.relative_to(runs.changed).as_posix() for p in runs.changed.rglob("*.png")}
    assert len(set(vectors) - set(old)) == 4 and len(set(old) - set(vectors)) == 1
    assert cosines(vectors, local).min() >= 0.9999
    kept = {name: vector for name, vector in vectors.items() if name in old}
    # The one that has another content now is not where it was.
    assert (cosines(kept, old) < 0.9999).sum() == 1
