"""Writes the models of the conformance suite: `python -m tests.conformance.models FOLDER [--server-path PATH]`.

Each lies below FOLDER as TF Serving wants it (`<model>/<version>/`), with `models.config` beside them. PATH is FOLDER
as the server sees it, when that differs (a container's mount).
"""

import argparse
import io
import pathlib
import shutil
import sys
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from PIL import Image
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import prediction_log_pb2

DIMENSION = 4
SIDE = 8
# Where a test copies a version from, when it lets one appear.
SPARE = "spare"
CONFIG = "models.config"

TYPES = (tf.float32, tf.float64, tf.int32, tf.int64, tf.uint8, tf.bool, tf.string)


class Model(tf.Module):
    """A small model with a signature for everything that the suite asks. Its embeddings name its version."""

    def __init__(self, version: int) -> None:
        super().__init__()
        generator = np.random.default_rng(version)
        self.kernel = tf.Variable(generator.normal(size=(SIDE * SIDE, DIMENSION)).astype(np.float32))
        self.version = tf.Variable(version, dtype=tf.int64)
        self.runs = tf.Variable(0, dtype=tf.int64)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")])
    def embed(self, image_bytes):
        def pixels(data):
            return tf.ensure_shape(tf.io.decode_png(data, channels=1), [SIDE, SIDE, 1])

        images = tf.map_fn(pixels, image_bytes, fn_output_signature=tf.TensorSpec([SIDE, SIDE, 1], tf.uint8))
        flat = tf.reshape(tf.cast(images, tf.float32), [-1, SIDE * SIDE])
        return {"embedding": tf.math.l2_normalize(flat @ self.kernel, axis=1)}

    @tf.function(
        input_signature=[tf.TensorSpec([None], tf.float32, name="x"), tf.TensorSpec([None], tf.float32, name="y")]
    )
    def arithmetic(self, x, y):
        return {"sum": x + y, "product": x * y, "version": tf.fill(tf.shape(x), self.version)}

    @tf.function(input_signature=[tf.TensorSpec([None], dtype, name=f"in_{dtype.name}") for dtype in TYPES])
    def types(self, *values):
        return {f"out_{dtype.name}": tf.identity(value) for dtype, value in zip(TYPES, values, strict=True)}

    @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, name="pairs")])
    def total(self, pairs):
        return {"total": tf.reduce_sum(pairs)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="seconds")])
    def slow(self, seconds):
        start = tf.timestamp()
        stop = start + tf.cast(tf.reduce_max(seconds), tf.float64)
        now = tf.while_loop(lambda now: now < stop, lambda now: [tf.timestamp()], [start], parallel_iterations=1)[0]
        return {"elapsed": tf.fill(tf.shape(seconds), tf.cast(now - start, tf.float32))}

    @tf.function(input_signature=[tf.TensorSpec([], tf.int64, name="by")])
    def count(self, by):
        return {"runs": self.runs.assign_add(by)}


def write_model(folder: pathlib.Path, version: int, warmup: Sequence[prediction_log_pb2.PredictionLog] = ()) -> None:
    """Writes one version as `folder`, with a warm-up file where there are requests for one."""
    model = Model(version)
    signatures = {"serving_default": model.embed} | {
        name: getattr(model, name) for name in ("arithmetic", "types", "total", "slow", "count")
    }
    tf.saved_model.save(model, str(folder), signatures=signatures)
    if warmup:
        write_warmup(folder, warmup)


def write_warmup(folder: pathlib.Path, logs: Sequence[prediction_log_pb2.PredictionLog]) -> None:
    """Gives a version the requests that it answers before it is available."""
    path = folder / "assets.extra" / "tf_serving_warmup_requests"
    path.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for log in logs:
            writer.write(log.SerializeToString())


def predict_log(model: str, signature: str, **inputs: tensor_pb2.TensorProto) -> prediction_log_pb2.PredictionLog:
    """Returns a warm-up record that calls `signature`."""
    log = prediction_log_pb2.PredictionLog()
    request = log.predict_log.request
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    for alias, value in inputs.items():
        request.inputs[alias].CopyFrom(value)
    return log


def picture(seed: int = 0) -> bytes:
    """Returns a PNG that the models take."""
    pixels = np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def copy_version(source: pathlib.Path, target: pathlib.Path) -> None:
    """Lets a version appear as a publisher does: copied beside its place, then renamed."""
    beside = target.with_name(f".{target.name}.tmp")
    shutil.copytree(source, beside)
    beside.rename(target)


def write_base(base: pathlib.Path, server_path: str) -> None:
    """Writes every model and `models.config`."""
    base.mkdir(parents=True, exist_ok=True)
    for version in (1, 2, 3):
        write_model(base / SPARE / str(version), version)
    slow = [predict_log("live", "slow", seconds=tf.make_tensor_proto([1.5], tf.float32))]
    write_model(base / SPARE / "slow", 5, slow)
    counted = [predict_log("warm", "count", by=tf.make_tensor_proto(1, tf.int64))] * 3
    write_model(base / SPARE / "counted", 1, counted)
    write_model(base / SPARE / "unwarmable", 1, [predict_log("live", "no such signature")])
    layout = {
        "encoder": {"1": "1", "2": "2"},
        "latest_two": {"1": "1", "2": "2", "0003": "3", "v4": "3", ".5.tmp": "3"},
        "specific": {"1": "1", "2": "2", "3": "3"},
        "by_default": {"1": "1", "2": "2"},
        "warm": {"1": "counted"},
        "live": {"1": "1"},
        "emptied": {"1": "1"},
    }
    for model, versions in layout.items():
        (base / model).mkdir()
        for name, spare in versions.items():
            shutil.copytree(base / SPARE / spare, base / model / name)
    (base / CONFIG).write_text(config_text(server_path))


def config_text(server_path: str) -> str:
    """Returns the ModelServerConfig to start the server with."""
    policies = {
        "encoder": 'model_version_policy { all {} }\n    version_labels { key: "stable" value: 1 }'
        '\n    version_labels { key: "canary" value: 2 }',
        "latest_two": "model_version_policy { latest { num_versions: 2 } }",
        "specific": "model_version_policy { specific { versions: 1 versions: 3 } }",
        "by_default": "",
        "warm": "",
        "live": "model_version_policy { all {} }",
        "emptied": "model_version_policy { all {} }",
    }
    models = [
        f'  config {{\n    name: "{name}"\n    base_path: "{server_path}/{name}"\n    model_platform: "tensorflow"\n'
        f"    {policy}\n  }}"
        for name, policy in policies.items()
    ]
    return "model_config_list {\n" + "\n".join(models) + "\n}\n"


def main() -> int:
    """Writes the models where the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--server-path", help="the folder as the server sees it (default: as it is here)")
    arguments = parser.parse_args()
    write_base(arguments.folder, arguments.server_path or str(arguments.folder.absolute()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
