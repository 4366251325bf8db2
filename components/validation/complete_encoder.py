"""The complete encoder: the exported SavedModel, the requests that warm it up, and what it says of itself."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from serving.release import layout
from serving.release.encoder_info import EncoderInfo

WARMUP = "assets.extra/tf_serving_warmup_requests"
WARMUP_SIZES = (1, 2, 4, 8, 16, 32, 64)


def predict_request(model: str, signature: str, name: str, values: Sequence[bytes]) -> Any:
    """Returns TF Serving's PredictRequest with one input `name`, a string tensor `[N]`."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    request.inputs[name].CopyFrom(tf.make_tensor_proto(list(values), tf.string, [len(values)]))
    return request


def warmup_requests(model: str, images: Sequence[bytes]) -> list[Any]:
    """Returns one request for each of WARMUP_SIZES, of canonical images in turn."""
    return [
        predict_request(model, "serving_default", "image_bytes", [images[i % len(images)] for i in range(size)])
        for size in WARMUP_SIZES
    ]


def complete(folder: pathlib.Path, info: EncoderInfo, warmup: Sequence[Any]) -> None:
    """Adds to a local copy of an export what makes it complete. The same arguments give the same bytes.

    The trainer's own lookalike_training.json stays: it says how images are fitted, and what was learned.
    """
    file = folder / layout.ENCODER_INFO
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(info.to_json())
    with tf.io.TFRecordWriter(str(folder / WARMUP)) as writer:
        for request in warmup:
            log = prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=request))
            writer.write(log.SerializeToString(deterministic=True))


def encoder_metrics(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what `evaluation.json` says of the encoder itself: EncoderInfo.metrics.

    Nothing that differs from run to run: the info is part of the encoder's digest. `reconstruction_errors`, where the
    family reconstructs, is the Distribution that a gateway compares the errors of queries with.
    """
    recall = evaluation["recall"]["embedding"]
    found = {
        "recall_at_1_of_altered_copies": sum(recall.values()) / len(recall),
        "reconstruction_mse": evaluation["reconstruction"]["reported"],
        "effective_rank": evaluation["spectrum"]["effective_rank"],
        **evaluation["labelled"].get("embedding", {}),
    }
    metrics: dict[str, Any] = {name: round(float(value), 6) for name, value in found.items() if value is not None}
    if errors := evaluation["reconstruction"].get("errors"):
        metrics["reconstruction_errors"] = errors
    return metrics
