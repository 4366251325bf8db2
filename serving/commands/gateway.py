"""Runs the gateway: answers which images look like this one, over gRPC.

It serves the release that CURRENT in the serving root names, and follows it: a new release is loaded beside the old
one, verified, and taken over without a restart. Images are embedded by the encoder, a TF Serving (or our model server)
that runs version policy "all" on the same serving root.

  lookalike model-server --model-name encoder --model-base-path ROOT/encoders/encoder --port 8500
  lookalike gateway --serving-root ROOT --encoder 127.0.0.1:8500 --port 50051

Health (grpc.health.v1): "" is the process, "lookalike.retrieval.v1.RetrievalService" is ready to answer, and
"lookalike.encoder" tells whether images can be encoded. SIGTERM drains: NOT_SERVING, wait, finish, exit 0.
"""

import argparse
import asyncio
import logging
import os
import pathlib
import sys

HELP = "serve the current release over gRPC"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this command's flags: one per field of GatewayConfig, which holds the defaults."""
    # What isn't given isn't set, so that the file's value stands.
    absent = argparse.SUPPRESS
    parser.add_argument("--config", type=pathlib.Path, help="YAML file with any of these options; flags override it")
    parser.add_argument("--serving-root", default=absent, help="folder, gs:// or s3:// that holds CURRENT (required)")
    parser.add_argument("--encoder", default=absent, metavar="HOST:PORT", help="TF Serving's gRPC [127.0.0.1:8500]")
    parser.add_argument("--host", default=absent, help="address to listen on [127.0.0.1]")
    parser.add_argument("--port", type=int, default=absent, help="port to listen on, 0 for a free one [50051]")
    parser.add_argument("--port-file", default=absent, help="file to write the port to once it listens")
    parser.add_argument("--cache", default=absent, help="folder for releases copied from an object store")
    parser.add_argument("--poll-seconds", type=float, default=absent, help="how often to look at CURRENT [1]")
    parser.add_argument("--keep-releases", type=int, default=absent, help="earlier releases kept for who pins them [1]")
    parser.add_argument("--keep-seconds", type=float, default=absent, help="how long they are kept [600]")
    parser.add_argument("--cached-items", type=int, default=absent, help="items a release keeps ready [20000]")
    parser.add_argument("--request-seconds", type=float, default=absent, help="longest a request may take [30]")
    parser.add_argument("--workers", type=int, default=absent, help="threads that decode and search [2]")
    parser.add_argument("--queue", type=int, default=absent, help="requests that may wait for a thread [64]")
    parser.add_argument("--drain-seconds", type=float, default=absent, help="NOT_SERVING before closing [0]")
    parser.add_argument("--grace-seconds", type=float, default=absent, help="for running requests at the end [10]")
    parser.add_argument("--reflection", action="store_true", default=absent, help="let tools list the API")
    parser.add_argument(
        "--insecure", action="store_true", default=absent, help="listen beyond loopback, in the clear and without auth"
    )


def run(arguments: argparse.Namespace) -> int:
    """Runs the gateway until it is told to stop; returns its exit code."""
    # Before NumPy is loaded: searches run on our threads, and BLAS's own would fight with them for the processors.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

    from serving.config import ConfigError, GatewayConfig
    from serving.gateway import serve

    # State changes of a server are wanted in its log, also without --verbose.
    logging.getLogger("serving").setLevel(logging.INFO)
    known = set(GatewayConfig.__dataclass_fields__)
    flags = {name: value for name, value in vars(arguments).items() if name in known}
    try:
        asyncio.run(serve(GatewayConfig.load(arguments.config, flags)))
    except (ConfigError, OSError) as error:
        print(f"lookalike gateway: {error}", file=sys.stderr)
        return 2
    return 0
