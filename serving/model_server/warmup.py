"""Answers a version's recorded requests before it is available, so that no client pays for the first run."""

import logging
import pathlib
import time

import grpc
import tensorflow as tf
from google.protobuf import message
from tensorflow_serving.apis import prediction_log_pb2

from serving.model_server.errors import ServingError, invalid_argument
from serving.model_server.servable import Servable
from serving.spare_time import SpareTime

_LOG = logging.getLogger(__name__)

FILE = "assets.extra/tf_serving_warmup_requests"
MAX_RECORDS = 1000


def warm_up(servable: Servable, folder: pathlib.Path, spare_time: SpareTime) -> int:
    """Runs the PredictionLogs in `folder`'s warm-up file (a TFRecord), in order and in spare time.

    Returns how many there were.

    There need not be a file. One that can't be read, that holds more than 1000 records, or a request that fails makes
    the load fail: raises ServingError or a TensorFlow error, as TF Serving does.
    """
    path = folder / FILE
    if not path.is_file():
        return 0
    started = time.monotonic()
    count = 0
    try:
        for record in tf.compat.v1.io.tf_record_iterator(str(path)):
            _run(servable, record, path, spare_time)
            count += 1
            if count > MAX_RECORDS:
                raise invalid_argument(f"Number of warmup records exceeds the maximum ({MAX_RECORDS}) at {path}")
    except tf.errors.DataLossError as error:
        text = f"{error.message}. Please verify your warmup data is in TFRecord format."
        raise ServingError(grpc.StatusCode.DATA_LOSS, text) from error
    _LOG.info("Warmed up with %d requests from %s in %.1f s.", count, path, time.monotonic() - started)
    return count


def _run(servable: Servable, record: bytes, path: pathlib.Path, spare_time: SpareTime) -> None:
    try:
        log = prediction_log_pb2.PredictionLog.FromString(record)
    except message.DecodeError as error:
        raise invalid_argument(f"Failed to parse warmup record: {record[:100]!r} from {path}") from error
    if log.WhichOneof("log_type") != "predict_log":
        # TF Serving could run these; we have no such service.
        _LOG.warning("A warm-up record of type %s is passed over.", log.WhichOneof("log_type"))
        return
    request = log.predict_log.request
    signature = servable.signature(request.model_spec.signature_name)
    outputs = signature.select(request.output_filter)
    inputs = signature.decode(request.inputs)
    spare_time.run(lambda: servable.run(signature, inputs, outputs, None, in_caller=True))
