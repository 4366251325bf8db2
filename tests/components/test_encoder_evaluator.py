import json
import pathlib
import re
import shutil

import pytest
from tfx import v1 as tfx
from tfx.types import standard_artifacts

from components.artifacts import EncoderEvaluation
from components.encoder_evaluator import EncoderEvaluator, NotBlessed, evaluate
from components.evaluation.exported_encoder import EncoderError, ExportedEncoder
from components.evaluation.gates import FAILED, NOT_JUDGED, GateLimits
from components.evaluation.gathered_sample import SampleLimits
from serving.release import layout
from serving.release.manifest import EncoderRef, FileEntry, IndexRef, Manifest, Shard
from tests.components.tried_encoders import digits, export_encoder, png, write_split

pytestmark = pytest.mark.slow

COUNT = 600
LIMITS = SampleLimits(queries=150, database=500, copies=100)


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    folder = tmp_path_factory.mktemp("examples")
    images, labels = digits(COUNT)
    write_split(folder, "train", images[:450], labels[:450])
    write_split(folder, "eval", images[450:], labels[450:])
    return folder


def judged(folder, examples, *, serving_root="", limits=LIMITS, **options):
    encoder = export_encoder(folder / "model", digits(COUNT)[0], **options)
    return evaluate(
        str(encoder), str(examples), limits=limits, gate_limits=GateLimits(), serving_root=str(serving_root)
    )


def failures(evaluation):
    return {gate.name for gate in evaluation.gates if gate.status == FAILED}


def artifact(kind, folder):
    folder.mkdir(parents=True, exist_ok=True)
    made = kind()
    made.uri = str(folder)
    return made


def call(tmp_path, examples, **options):
    """Runs the component as TFX does, on an encoder exported with `options`."""
    model = artifact(standard_artifacts.Model, tmp_path / "model")
    export_encoder(pathlib.Path(model.uri) / "Format-Serving", digits(COUNT)[0], **options)
    outputs = {
        "blessing": artifact(standard_artifacts.ModelBlessing, tmp_path / "blessing"),
        "evaluation": artifact(EncoderEvaluation, tmp_path / "evaluation" / "7"),
    }
    inputs = {"model": model, "examples": artifact(standard_artifacts.Examples, examples)}
    try:
        EncoderEvaluator.test_call(**inputs, **outputs, code="c", queries=150, database=500)
    finally:
        outputs["files"] = sorted(path.name for path in pathlib.Path(outputs["blessing"].uri).iterdir())
        call.outputs = outputs  # what there is also where it raises
    return outputs


def test_a_good_encoder_is_blessed_and_reported(tmp_path, examples):
    before = sorted((path, path.stat().st_mtime_ns) for path in examples.rglob("*"))
    outputs = call(tmp_path, examples)
    assert outputs["blessing"].get_int_custom_property("blessed") == 1
    assert outputs["files"] == ["BLESSED"]
    folder = pathlib.Path(outputs["evaluation"].uri)
    pictures = {"reconstructions.png", "errors.png", "retrieval.png", "spectrum.png"}
    assert {path.name for path in folder.iterdir()} == pictures | {"evaluation.json", "report.html"}
    value = json.loads((folder / "evaluation.json").read_text())
    assert value["blessed"]
    assert (value["records"], value["queries"], value["database"]) == (COUNT, 150, 500)
    assert value["labelled"]["embedding"]["one_nn"] > 0.9
    assert set(value["recall"]) == {"embedding", "pca", "pixels"}
    assert len(value["data_fingerprint"]) == 64
    errors = value["reconstruction"]["errors"]
    assert errors["count"] == value["asked"]
    assert errors["percentiles"][0] < value["reconstruction"]["reported"] < errors["percentiles"][100]
    page = (folder / "report.html").read_text()
    assert re.findall(r'(?:src|href)="(?!data:image/png;base64,)', page) == []
    assert page.count("<img") == 4
    assert sorted((path, path.stat().st_mtime_ns) for path in examples.rglob("*")) == before


def test_a_model_that_outputs_black_does_not_pass_although_it_retrieves(tmp_path, examples):
    with pytest.raises(NotBlessed) as caught:
        call(tmp_path, examples, decoder="black")
    message = str(caught.value)
    failed = [line.removeprefix("FAILED").strip() for line in message.splitlines() if line.startswith("FAILED")]
    assert failed == [
        "alive: the reconstruction depends on the image",
        "alive: reconstructs better than predict-the-mean",
    ]
    assert "no better than all-black" in message
    assert "Try: " in message
    outputs = call.outputs
    assert outputs["blessing"].get_int_custom_property("blessed") == 0
    assert outputs["files"] == ["NOT_BLESSED"]
    # TFX removes the outputs of a run that failed: the report that the message names is outside of them.
    shutil.rmtree(outputs["evaluation"].uri)
    report = pathlib.Path(message.rpartition("Report: ")[2])
    value = json.loads((report.parent / "evaluation.json").read_text())
    assert "Not blessed" in report.read_text()
    # Its encoder is as good as PCA, and that is how such a model has fooled people.
    assert value["labelled"]["embedding"]["one_nn"] > 0.9
    passed = {gate["name"] for gate in value["gates"] if gate["status"] == "passed"}
    assert "finds originals of altered copies no worse than PCA" in passed


def test_a_decoder_that_draws_the_mean_does_not_pass(tmp_path, examples):
    assert "alive: the reconstruction depends on the image" in failures(judged(tmp_path, examples, decoder="mean"))


def test_a_random_encoder_does_not_pass(tmp_path, examples):
    assert failures(judged(tmp_path, examples, encoder="random")) == {
        "finds originals of altered copies no worse than PCA"
    }


def test_a_constant_encoder_does_not_pass(tmp_path, examples):
    failed = failures(judged(tmp_path, examples, encoder="constant"))
    assert {"alive: the embedding depends on the image", "not collapsed: effective rank"} <= failed


def test_a_collapsed_encoder_does_not_pass(tmp_path, examples):
    assert "not collapsed: effective rank" in failures(judged(tmp_path, examples, encoder="line"))


def test_an_encoder_of_nan_does_not_pass(tmp_path, examples):
    assert "embeddings are finite and of unit length" in failures(judged(tmp_path, examples, encoder="nan"))


def test_an_error_that_is_not_that_of_the_pictures_does_not_pass(tmp_path, examples):
    failed = failures(judged(tmp_path, examples, lie=0.01))
    assert failed == {"the reported error is that of the pictures"}


def test_an_encoder_without_decoder_passes(tmp_path, examples):
    result = judged(tmp_path, examples, decoder=None, family="descriptors")
    assert result.blessed
    assert result.measured.reconstruction.reported is None


def serve(root, encoder):
    """Makes `encoder` the one that CURRENT names."""
    shutil.copytree(encoder, root / layout.encoder_folder("encoder", 3))
    names = [layout.index_folder(0, 1) + "/index.json", layout.embeddings_file(0, 1), layout.items_file(0, 1)]
    files = tuple(FileEntry(name, 1, "0" * 64) for name in names)
    shard = Shard(layout.index_folder(0, 1), layout.embeddings_file(0, 1), layout.items_file(0, 1), 1, files)
    manifest = Manifest(
        release_id="r1",
        created=0.0,
        parent=None,
        encoder=EncoderRef("encoder", 3, "0" * 64, 16, True),
        index=IndexRef("exact", "cosine", 1, {"kind": "exact"}, (shard,)),
        golden=(),
        golden_recall=0.9,
        evaluation={},
        lineage={},
    )
    target = root / layout.release_folder("r1")
    target.mkdir(parents=True)
    (target / layout.MANIFEST).write_bytes(manifest.to_json())
    (root / layout.CURRENT).write_text("r1\n")


def test_a_worse_encoder_than_the_served_one_does_not_pass(tmp_path, examples):
    root = tmp_path / "root"
    serve(root, export_encoder(tmp_path / "served", digits(COUNT)[0]))
    result = judged(tmp_path, examples, dimension=3, serving_root=root)
    assert "not worse than the served encoder: recall@1 of altered copies" in failures(result)
    assert result.served == "encoder version 3 of release r1"
    assert result.measured.served_mse is None
    (tmp_path / "same").mkdir()
    same = judged(tmp_path / "same", examples, serving_root=root)
    assert same.blessed
    assert same.measured.served_mse == pytest.approx(same.measured.reconstruction.reported)


def test_a_broken_served_encoder_does_not_keep_a_new_one_out(tmp_path, examples):
    root = tmp_path / "root"
    serve(root, export_encoder(tmp_path / "served", digits(COUNT)[0]))
    (root / layout.encoder_folder("encoder", 3) / "saved_model.pb").write_bytes(b"broken")
    result = judged(tmp_path, examples, serving_root=root)
    assert result.blessed
    assert [g.status for g in result.gates if g.name == "not worse than the served encoder"] == [NOT_JUDGED]


@pytest.mark.parametrize("images", [digits(1)[0], digits(2)[0], digits(1)[0] * 5], ids=["one", "two", "identical"])
def test_tiny_collections_fail_nothing_for_lack_of_data(tmp_path, images):
    examples = tmp_path / "examples"
    write_split(examples, "train", images)
    write_split(examples, "eval", [])
    encoder = export_encoder(tmp_path / "model", digits(50)[0])
    result = evaluate(str(encoder), str(examples), limits=LIMITS, gate_limits=GateLimits())
    assert result.blessed
    assert result.measured.eval_reuses_train
    assert any("different images" in gate.reason for gate in result.gates if gate.status == NOT_JUDGED)


def test_a_black_model_does_not_pass_on_few_images_either(tmp_path):
    """Two queries alone could not tell; the train split helps out."""
    images = digits(30)[0]
    write_split(tmp_path / "examples", "train", images[:28])
    write_split(tmp_path / "examples", "eval", images[28:])
    result = judged(tmp_path, tmp_path / "examples", decoder="black")
    assert (result.measured.queries, result.measured.asked, result.measured.copies) == (2, 30, 30)
    assert failures(result) == {
        "alive: the reconstruction depends on the image",
        "alive: reconstructs better than predict-the-mean",
    }
    (tmp_path / "good").mkdir()
    assert judged(tmp_path / "good", tmp_path / "examples").blessed


def test_pixels_in_memory_are_bounded(tmp_path, examples):
    limits = SampleLimits(queries=150, database=500, copies=100, pixel_bytes=100 * 16 * 16)
    result = judged(tmp_path, examples, limits=limits)
    assert (result.measured.database, result.measured.queries) == (100, 50)
    assert result.measured.reconstruction.pca_fitted_on == 50


@pytest.mark.parametrize("family", ["convolutional", "denoising"])
def test_with_enough_images_families_that_reconstruct_must_beat_pca(tmp_path, examples, family):
    encoder = export_encoder(tmp_path / "model", digits(60)[0], dimension=8, family=family)
    limits = GateLimits(pca_contents=COUNT)
    result = evaluate(str(encoder), str(examples), limits=LIMITS, gate_limits=limits)
    assert ("reconstructs better than PCA" in failures(result)) == (family == "convolutional")


def test_a_run_of_tfx_fails_and_keeps_the_report(tmp_path, examples):
    export_encoder(tmp_path / "model" / "Format-Serving", digits(COUNT)[0], decoder="black")
    model = tfx.dsl.Importer(str(tmp_path / "model"), standard_artifacts.Model).with_id("model")
    data = tfx.dsl.Importer(str(examples), standard_artifacts.Examples, properties={"split_names": '["train", "eval"]'})
    evaluator = EncoderEvaluator(model=model.outputs["result"], examples=data.outputs["result"], code="c", database=500)
    pipeline = tfx.dsl.Pipeline(
        pipeline_name="test",
        pipeline_root=str(tmp_path / "runs"),
        components=[model, data.with_id("examples"), evaluator],
        metadata_connection_config=tfx.orchestration.metadata.sqlite_metadata_connection_config(str(tmp_path / "db")),
    )
    with pytest.raises(RuntimeError, match="The encoder is not blessed") as caught:
        tfx.orchestration.LocalDagRunner().run(pipeline)
    report = pathlib.Path(str(caught.value).rpartition("Report: ")[2].strip())
    assert "Not blessed" in report.read_text()
    assert not list((tmp_path / "runs" / "EncoderEvaluator" / "blessing").glob("*"))


def test_no_examples_at_all_are_an_error(tmp_path):
    encoder = export_encoder(tmp_path / "model", digits(20)[0])
    with pytest.raises(ValueError, match="no examples"):
        evaluate(str(encoder), str(tmp_path / "none"), limits=LIMITS, gate_limits=GateLimits())


def test_the_same_run_gives_the_same_numbers(tmp_path, examples):
    first = judged(tmp_path, examples)
    again = evaluate(str(tmp_path / "model"), str(examples), limits=LIMITS, gate_limits=GateLimits())
    assert first.measured == again.measured


def test_evaluators_blessing_is_required(tmp_path, examples):
    refused = artifact(standard_artifacts.ModelBlessing, tmp_path / "refused")
    refused.set_int_custom_property("blessed", 0)
    with pytest.raises(NotBlessed, match="TFX's Evaluator did not bless"):
        EncoderEvaluator.test_call(
            model=artifact(standard_artifacts.Model, tmp_path / "model"),
            examples=artifact(standard_artifacts.Examples, examples),
            blessing=artifact(standard_artifacts.ModelBlessing, tmp_path / "blessing"),
            evaluation=artifact(EncoderEvaluation, tmp_path / "evaluation"),
            model_blessing=refused,
            code="c",
        )


def test_what_is_no_encoder_of_ours_is_an_error(tmp_path):
    folder = export_encoder(tmp_path / "model", digits(20)[0])
    info = folder / "assets.extra" / "lookalike_training.json"
    info.write_text(info.read_text().replace('"dimension": 16', '"dimension": 17'))
    with pytest.raises(EncoderError, match=r"embedding must be float32 \[1, 17\], got float32 \[1, 16\]"):
        ExportedEncoder(str(folder)).embed([png(digits_pixels())])
    info.write_text("{}")
    with pytest.raises(EncoderError, match="doesn't describe an encoder"):
        ExportedEncoder(str(folder))
    info.unlink()
    with pytest.raises(EncoderError, match="has no assets"):
        ExportedEncoder(str(folder))


def digits_pixels():
    import numpy as np

    return np.zeros((16, 16), np.uint8)
