"""Real SavedModels through the session loader."""

import shutil
import threading

import grpc
import numpy as np
import pytest
import tensorflow as tf

from serving.model_server.errors import ServingError
from serving.model_server.servable import Handle, load_servable
from serving.model_server.warmup import FILE, MAX_RECORDS, warm_up
from serving.spare_time import SpareTime
from tests.conformance import models
from tests.conformance.process import wait_until

AT_ONCE = SpareTime(0)


@pytest.fixture
def servable(version_folder):
    servable = load_servable(version_folder, AT_ONCE)
    yield servable
    servable.close()


@pytest.fixture
def copy(version_folder, tmp_path):
    shutil.copytree(version_folder, tmp_path / "1")
    return tmp_path / "1"


def test_signatures(servable):
    default = servable.signature("")
    assert default.name == "serving_default"
    assert default.batchable
    assert not servable.signature("total").batchable
    assert not servable.signature("count").batchable
    # The model lists its initialiser too, which is no entry point.
    assert "__saved_model_init_op" in servable.signature_defs
    with pytest.raises(ServingError, match='Serving signature key "__saved_model_init_op" not found'):
        servable.signature("__saved_model_init_op")


def test_runs_like_the_model_itself(servable, version_folder):
    images = np.array([models.picture(seed) for seed in range(3)], object)
    outputs = servable.run(servable.signature(""), {"image_bytes": images}, ["embedding"], None)
    loaded = tf.saved_model.load(str(version_folder)).signatures["serving_default"]
    np.testing.assert_allclose(outputs["embedding"], loaded(tf.constant(images))["embedding"], atol=1e-6)


def test_a_bad_image_is_invalid_argument(servable):
    with pytest.raises(tf.errors.InvalidArgumentError):
        servable.run(servable.signature(""), {"image_bytes": np.array([b"x"], object)}, ["embedding"], None)


def test_a_run_ends_at_its_time(servable):
    with pytest.raises(tf.errors.DeadlineExceededError):
        servable.run(servable.signature("slow"), {"seconds": np.array([30], np.float32)}, ["elapsed"], 0.1)


def test_an_export_that_only_python_can_restore_is_refused(tmp_path):
    # The field's trap: Keras objects as attributes load in Python, and come up without variables in C++.
    import keras

    class Encoder(tf.Module):
        def __init__(self):
            super().__init__()
            self.model = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(2)])

        @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, name="x")])
        def serve(self, x):
            return {"y": self.model(x)}

    encoder = Encoder()
    tf.saved_model.save(encoder, str(tmp_path / "1"), signatures=encoder.serve)
    tf.saved_model.load(str(tmp_path / "1"))
    servable = load_servable(tmp_path / "1", AT_ONCE)
    with pytest.raises(tf.errors.OpError, match="Could not find variable"):
        servable.run(servable.signature(""), {"x": np.ones((1, 2), np.float32)}, ["y"], None)


def test_a_folder_without_a_model(tmp_path):
    with pytest.raises(ServingError, match=r"Could not find SavedModel .pb or .pbtxt") as refused:
        load_servable(tmp_path, AT_ONCE)
    assert refused.value.code == grpc.StatusCode.NOT_FOUND


def test_drain_waits_for_the_last_user(servable):
    handle = Handle("m", 1, servable)
    with handle.acquire():
        draining = threading.Thread(target=handle.drain)
        draining.start()
        draining.join(0.1)
        assert draining.is_alive()
    draining.join(10)
    assert not draining.is_alive()


def test_abandoning_cancels_what_runs(version_folder):
    handle = Handle("m", 1, load_servable(version_folder, AT_ONCE))
    errors = []

    def run():
        with handle.acquire():
            try:
                inputs = {"seconds": np.array([60], np.float32)}
                handle.servable.run(handle.servable.signature("slow"), inputs, ["elapsed"], None)
            except tf.errors.CancelledError as error:
                errors.append(error)

    running = threading.Thread(target=run)
    running.start()
    wait_until(lambda: handle._users == 1)
    draining = threading.Thread(target=handle.drain)
    draining.start()
    handle.abandon()
    draining.join(10)
    running.join(10)
    assert errors


def count(servable):
    zero = {"by": np.array(0, np.int64)}
    return servable.run(servable.signature("count"), zero, ["runs"], None)["runs"]


def test_warm_up_runs_every_record(servable, copy):
    assert warm_up(servable, copy, AT_ONCE) == 0
    records = [models.predict_log("m", "count", by=tf.make_tensor_proto(1, tf.int64))] * 3
    models.write_warmup(copy, records)
    assert warm_up(servable, copy, AT_ONCE) == 3
    assert count(servable) == 3


def test_warm_up_has_a_limit(servable, copy):
    records = [models.predict_log("m", "count", by=tf.make_tensor_proto(1, tf.int64))] * (MAX_RECORDS + 1)
    models.write_warmup(copy, records)
    with pytest.raises(ServingError, match=r"exceeds the maximum \(1000\)"):
        warm_up(servable, copy, AT_ONCE)


def test_warm_up_with_a_request_that_fails(servable, copy):
    models.write_warmup(copy, [models.predict_log("m", "nobody")])
    with pytest.raises(ServingError, match='key "nobody" not found'):
        warm_up(servable, copy, AT_ONCE)


def test_warm_up_passes_over_what_is_not_served_here(servable, copy):
    classify = models.prediction_log_pb2.PredictionLog()
    classify.classify_log.SetInParent()
    models.write_warmup(copy, [classify])
    assert warm_up(servable, copy, AT_ONCE) == 1


@pytest.mark.parametrize("damage", [lambda data: b"not a record file at all", lambda data: data[:-3]])
def test_warm_up_file_that_is_broken(servable, copy, damage):
    models.write_warmup(copy, [models.predict_log("m", "count", by=tf.make_tensor_proto(1, tf.int64))])
    (copy / FILE).write_bytes(damage((copy / FILE).read_bytes()))
    with pytest.raises(ServingError, match="verify your warmup data is in TFRecord format") as refused:
        warm_up(servable, copy, AT_ONCE)
    assert refused.value.code == grpc.StatusCode.DATA_LOSS


def test_warm_up_record_that_is_no_log(servable, copy):
    (copy / "assets.extra").mkdir()
    with tf.io.TFRecordWriter(str(copy / FILE)) as writer:
        writer.write(b"\xff\xff")
    with pytest.raises(ServingError, match="Failed to parse warmup record"):
        warm_up(servable, copy, AT_ONCE)
