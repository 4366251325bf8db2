import json
import os
import pathlib
import shutil
import signal

import keras
import numpy as np
import psutil
import pytest
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2
from tfx.components.pusher.executor import Executor as Pusher
from tfx.components.util.model_utils import is_infra_validated
from tfx.types import standard_artifacts

from components.artifacts import EncoderEvaluation
from components.encoder_evaluator import NotBlessed
from components.evaluation.exported_encoder import ExportedEncoder
from components.serving_validator import ServingValidator, encoder_info, probe_images
from components.validation.complete_encoder import WARMUP, WARMUP_SIZES, complete, warmup_requests
from components.validation.model_server_process import ModelServerError, ModelServerProcess
from components.validation.serving_check import (
    ServingMismatch,
    answers_in_process,
    answers_in_session,
    compare,
    questions,
)
from serving.release import layout
from serving.release.distribution import Distribution
from serving.release.encoder_info import EncoderInfo, list_files, tree_digest
from tests.components.tried_encoders import digits, export_encoder, write_split

IMAGES = digits(40)[0]
RECORD = tf.train.Example(
    features=tf.train.Features(feature={"image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[IMAGES[0]]))})
).SerializeToString()
ERRORS = Distribution.of([0.01, 0.02]).to_dict()
EVALUATION = {
    "recall": {"embedding": {"shift": 0.9, "noise": 1.0}},
    "reconstruction": {"reported": 0.0123456789, "errors": ERRORS},
    "spectrum": {"effective_rank": 12.5},
    "labelled": {"embedding": {"one_nn": 0.97}, "pca": {"one_nn": 0.96}},
    "data_fingerprint": "f" * 64,
    "seconds": 12.3,
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The folder of an export that nobody changes."""
    return export_encoder(tmp_path_factory.mktemp("export") / "model", IMAGES)


def artifact(kind, folder):
    folder.mkdir(parents=True, exist_ok=True)
    made = kind()
    made.uri = str(folder)
    return made


def inputs(tmp_path, *, blessed=True):
    """What the component takes: an export, examples, the final blessing, the evaluation."""
    export_encoder(tmp_path / "model" / "Format-Serving", IMAGES)
    write_split(tmp_path / "examples", "train", IMAGES[:30])
    write_split(tmp_path / "examples", "eval", IMAGES[30:])
    blessing = artifact(standard_artifacts.ModelBlessing, tmp_path / "blessing")
    blessing.set_int_custom_property("blessed", int(blessed))
    evaluation = artifact(EncoderEvaluation, tmp_path / "evaluation")
    (tmp_path / "evaluation" / "evaluation.json").write_text(json.dumps(EVALUATION))
    return {
        "model": artifact(standard_artifacts.Model, tmp_path / "model"),
        "examples": artifact(standard_artifacts.Examples, tmp_path / "examples"),
        "blessing": blessing,
        "evaluation": evaluation,
    }


def servers():
    """The model servers that this process has started and not stopped."""
    children = psutil.Process().children(recursive=True)
    return [child for child in children if child.is_running() and "model-server" in child.cmdline()]


@pytest.mark.slow
def test_the_complete_encoder_is_emitted_and_pusher_takes_it(tmp_path):
    given = inputs(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    infra_blessing = artifact(standard_artifacts.InfraBlessing, tmp_path / "infra")
    ServingValidator.test_call(**given, infra_blessing=infra_blessing, code="c")

    assert is_infra_validated(infra_blessing)
    assert (tmp_path / "infra" / "INFRA_BLESSED").exists()
    folder = pathlib.Path(Pusher().GetModelPath({"infra_blessing": [infra_blessing]}))
    assert {path: path.read_bytes() for path in before} == before

    info = EncoderInfo.from_json((folder / layout.ENCODER_INFO).read_bytes())
    assert (info.dimension, info.height, info.width, info.channels, info.family) == (16, 16, 16, 1, "convolutional")
    assert info.metrics == {
        "recall_at_1_of_altered_copies": 0.95,
        "reconstruction_mse": 0.012346,
        "effective_rank": 12.5,
        "one_nn": 0.97,
        "reconstruction_errors": ERRORS,
    }
    assert len(info.probes) == 5
    served = ExportedEncoder(str(folder))
    for probe in info.probes:
        assert probe.image in IMAGES[30:]
        assert served.embed([probe.image])[0] == pytest.approx(probe.embedding, abs=1e-5)
    logs = [
        prediction_log_pb2.PredictionLog.FromString(record)
        for record in tf.compat.v1.io.tf_record_iterator(str(folder / WARMUP))
    ]
    sizes = [log.predict_log.request.inputs["image_bytes"].tensor_shape.dim[0].size for log in logs]
    assert sizes == list(WARMUP_SIZES)
    assert servers() == []


def test_an_export_completed_again_is_the_same_encoder(exported, tmp_path):
    """Byte for byte: what has been embedded with it stays valid."""
    digests = []
    for name in "ab":
        folder = tmp_path / name
        shutil.copytree(exported, folder)
        complete(
            folder, encoder_info(ExportedEncoder(str(folder)), IMAGES[:3], EVALUATION), warmup_requests("m", IMAGES)
        )
        digests.append(tree_digest(list_files(folder)))
    assert digests[0] == digests[1]


def test_an_encoder_without_the_final_blessing_is_refused(tmp_path):
    infra_blessing = artifact(standard_artifacts.InfraBlessing, tmp_path / "infra")
    with pytest.raises(NotBlessed):
        ServingValidator.test_call(**inputs(tmp_path, blessed=False), infra_blessing=infra_blessing, code="c")
    assert not is_infra_validated(infra_blessing)


@pytest.mark.slow
def test_an_encoder_that_the_server_can_not_warm_up_is_refused_with_its_log(exported, tmp_path):
    folder = tmp_path / "encoder" / "1"
    shutil.copytree(exported, folder)
    (folder / WARMUP).write_bytes(b"not a TFRecord")
    with (
        pytest.raises(ModelServerError, match="can't load the encoder") as caught,
        ModelServerProcess(folder.parent, "encoder", tmp_path, start_seconds=120) as server,
    ):
        server.wait_until_available(1)
    assert "log ends:\n" in str(caught.value)
    assert "warmup" in str(caught.value)
    assert not psutil.pid_exists(server.pid)


@pytest.mark.slow
def test_a_server_that_dies_is_told_with_its_log(exported, tmp_path):
    shutil.copytree(exported, tmp_path / "encoder" / "1")
    with (
        pytest.raises(ModelServerError, match="ended with exit code -9"),
        ModelServerProcess(tmp_path / "encoder", "encoder", tmp_path, start_seconds=120) as server,
    ):
        os.kill(server.pid, signal.SIGKILL)
        server.wait_until_available(1)


@pytest.mark.slow
def test_a_server_that_does_not_start_is_told_with_its_log(tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    server = ModelServerProcess(tmp_path / "encoder", "a name with spaces/../", scratch, start_seconds=0.5)
    with pytest.raises(ModelServerError, match=r"did not listen within 0 s|ended with exit code"), server:
        pass
    assert servers() == []


class KerasInside(tf.Module):
    """How not to export: a Keras 3 model as an attribute of a tf.Module."""

    def __init__(self):
        super().__init__()
        self.network = keras.Sequential([keras.Input((1,)), keras.layers.Dense(3)])

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")])
    def embed(self, image_bytes):
        sizes = tf.cast(tf.strings.length(image_bytes), tf.float32)[:, tf.newaxis]
        return {"embedding": tf.math.l2_normalize(self.network(sizes), axis=1)}


def test_an_export_whose_variables_tf_serving_would_not_find_is_refused(tmp_path):
    folder = export_encoder(tmp_path / "encoder", IMAGES)
    module = KerasInside()
    tf.saved_model.save(module, str(folder), signatures={"serving_default": module.embed})
    encoder = ExportedEncoder(str(folder))
    asked = questions(encoder, IMAGES[:3], [RECORD])
    assert len(answers_in_process(encoder, asked)) == 3
    with pytest.raises(ServingMismatch, match="as TF Serving restores it"):
        answers_in_session(folder, asked)


def test_session_and_process_answer_alike_for_every_signature(exported):
    encoder = ExportedEncoder(str(exported))
    asked = questions(encoder, IMAGES[:3], [RECORD])
    assert {q.signature for q in asked} == {"serving_default", "reconstruct", "examples"}
    assert sorted(len(q.values) for q in asked) == [1, 1, 3, 3, 64]
    expected = answers_in_process(encoder, asked)
    compare(asked, expected, answers_in_session(exported, asked), "in a session")


@pytest.mark.parametrize(
    "output, change, fault",
    [
        ("embedding", lambda value: value[:, ::-1], "a cosine of"),
        ("embedding", lambda value: value * np.float32(np.nan), "not all numbers are finite"),
        ("embedding", lambda value: value.astype(np.float64), "must be float32"),
        ("embedding", lambda value: value[:, :4], r"must be float32 \[1, 16\], got float32 \[1, 4\]"),
        ("error", lambda value: value + np.float32(0.01), "by up to 1.00e-02"),
        ("image", lambda value: np.minimum(value, 100), "grey levels"),
        (None, lambda value: value, "outputs must be"),
    ],
)
def test_answers_that_differ_are_told_apart(exported, output, change, fault):
    encoder = ExportedEncoder(str(exported))
    asked = questions(encoder, IMAGES[:3], [RECORD])
    expected = answers_in_process(encoder, asked)
    got = [{name: change(v) if name == output else v for name, v in answer.items() if output} for answer in expected]
    with pytest.raises(ServingMismatch, match=fault):
        compare(asked, expected, got, "elsewhere")


def test_a_signature_that_takes_something_else_is_told(tmp_path):
    folder = export_encoder(tmp_path / "encoder", IMAGES)
    module = tf.Module()
    module.ask = tf.function(
        lambda text: {"embedding": tf.strings.length(text)}, input_signature=[tf.TensorSpec([None], tf.string, "text")]
    )
    tf.saved_model.save(module, str(folder), signatures={"serving_default": module.ask})
    with pytest.raises(ServingMismatch, match=r"takes \['text'\]"):
        questions(ExportedEncoder(str(folder)), IMAGES, [RECORD])


def test_probes_come_from_train_where_eval_is_empty(tmp_path):
    write_split(tmp_path, "train", IMAGES[:2])
    write_split(tmp_path, "eval", [])
    images, records = probe_images(str(tmp_path))
    assert sorted(images) == sorted(IMAGES[:2])
    assert len(records) == 2
    with pytest.raises(ValueError, match="no examples"):
        probe_images(str(tmp_path / "none"))
