"""Serves SavedModels over TF Serving's gRPC API (Predict, GetModelMetadata, GetModelStatus, health), on one machine.

Every integer-named folder below the base path is a version; versions that appear or go while the server runs are
loaded or unloaded, each new one before the old. The port opens once the first versions are loaded (or have failed).

  lookalike model-server --model-name encoder --model-base-path serving-root/encoders/encoder --port 8500

On Kubernetes the same address is the real tensorflow/serving. SIGTERM lets running requests end, then exits with 0.
"""

import argparse
import asyncio
import logging
import os
import pathlib
import sys
import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from serving.model_server.server import ServerOptions

HELP = "serve encoders over TF Serving's API on this machine"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this command's flags."""
    models = parser.add_argument_group("models")
    models.add_argument("--model-name", default="encoder", help="name of the model (default: %(default)s)")
    models.add_argument(
        "--model-base-path", type=pathlib.Path, help="folder whose children are its versions; serves all"
    )
    models.add_argument(
        "--model-config-file",
        type=pathlib.Path,
        help="instead: a ModelServerConfig as TF Serving reads it (text format)",
    )
    models.add_argument("--poll-seconds", type=float, default=1.0, help="between two looks; 0: once (default: 1)")
    models.add_argument("--max-load-retries", type=int, default=5, help="for a version that fails (default: 5)")
    models.add_argument("--load-retry-seconds", type=float, default=60.0, help="between two attempts (default: 60)")
    models.add_argument("--no-warmup", action="store_true", help="don't run assets.extra/tf_serving_warmup_requests")
    models.add_argument(
        "--allow-version-labels-for-unavailable-models",
        action="store_true",
        help="let a new label point at a version that isn't loaded yet (labels in --model-config-file need it)",
    )
    models.add_argument(
        "--allow-reload",
        action="store_true",
        help="let clients change the models by HandleReloadConfigRequest: they can then run code from any folder "
        "(TF Serving always lets them)",
    )
    listening = parser.add_argument_group("listening")
    listening.add_argument("--host", default="127.0.0.1", help="address to bind (default: %(default)s)")
    listening.add_argument("--port", type=int, default=8500, help="0 picks a free one (default: %(default)s)")
    listening.add_argument("--port-file", type=pathlib.Path, help="write the port there once the server listens")
    listening.add_argument("--drain-seconds", type=float, default=30.0, help="for running requests (default: 30)")
    batching = parser.add_argument_group("batching")
    batching.add_argument("--no-batching", action="store_true", help="run every request by itself")
    batching.add_argument("--max-batch-size", type=int, default=64, help="images in one run (default: 64)")
    batching.add_argument("--batch-threads", type=int, default=1, help="runs at the same time (default: 1)")
    batching.add_argument("--batch-timeout-micros", type=int, default=0, help="wait for company (default: 0)")
    batching.add_argument(
        "--max-enqueued-batches",
        type=int,
        default=16,
        help="full batches that may wait, then UNAVAILABLE (default: 16)",
    )
    parser.add_argument(
        "--enable-serialization-as-tensor-content",
        action="store_true",
        help="answer with tensor_content instead of typed fields, as TF Serving's flag of this name",
    )


def run(arguments: argparse.Namespace) -> int:
    """Runs the server until it is told to stop; returns the exit code."""
    if (arguments.model_base_path is None) == (arguments.model_config_file is None):
        print("lookalike model-server: give either --model-base-path or --model-config-file", file=sys.stderr)
        return 2
    # Before TensorFlow is imported: its start says much that is of no use here.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    warnings.filterwarnings("ignore", category=FutureWarning, module="google")
    import tensorflow as tf

    from serving.model_server.errors import ServingError
    from serving.model_server.server import serve

    tf.get_logger().setLevel(logging.ERROR)
    # A server says what it does, also without --verbose.
    logging.getLogger("serving").setLevel(logging.INFO)
    try:
        asyncio.run(serve(_options(arguments)))
    except (ServingError, ValueError, OSError) as error:
        print(f"lookalike model-server: {error}", file=sys.stderr)
        return 1
    return 0


def _options(arguments: argparse.Namespace) -> "ServerOptions":
    from serving.model_server.batching import BatchingOptions
    from serving.model_server.config import LoadOptions, read_config_file, single_model
    from serving.model_server.server import ServerOptions

    if arguments.model_config_file is not None:
        models = read_config_file(arguments.model_config_file)
    else:
        models = single_model(arguments.model_name, arguments.model_base_path)
    batching = BatchingOptions(
        arguments.max_batch_size,
        arguments.max_enqueued_batches,
        arguments.batch_threads,
        arguments.batch_timeout_micros,
    )
    return ServerOptions(
        models=models,
        host=arguments.host,
        port=arguments.port,
        port_file=arguments.port_file,
        loading=LoadOptions(
            arguments.poll_seconds,
            arguments.max_load_retries,
            arguments.load_retry_seconds,
            not arguments.no_warmup,
            arguments.allow_version_labels_for_unavailable_models,
        ),
        batching=None if arguments.no_batching else batching,
        tensor_content=arguments.enable_serialization_as_tensor_content,
        allow_reload=arguments.allow_reload,
        drain_seconds=arguments.drain_seconds,
    )
