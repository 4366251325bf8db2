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
import dataclasses
import os
import pathlib
import sys
from typing import Any

from serving.gateway.config import SECTIONS

HELP = "serve the current release over gRPC"
# The fields of the options' sections. Their types and defaults stand there.
_SECTIONS = {
    "limits": {
        "in_flight": "requests at work at once; more are refused",
        "in_flight_bytes": "bytes of all requests at work",
        "request_bytes": "bytes of one request",
        "metadata_bytes": "bytes of one request's headers",
        "backlog": "requests that may have arrived and not been looked at",
    },
    "connections": {
        "max_streams": "requests at once on one connection",
        "max_age": "seconds until a connection is closed in peace, 0 for never",
        "age_grace": "seconds that its requests get to finish",
        "max_idle": "seconds until an idle connection is closed, 0 for never",
        "keepalive": "seconds between pings to a silent client, 0 for never",
        "keepalive_timeout": "seconds that it gets to answer",
        "min_ping": "seconds that clients must leave between their pings",
    },
    "encoding": {
        "batch_images": "images of requests at the same time that are encoded together",
        "batches": "calls to the encoder at once",
        "batch_wait_seconds": "seconds that an image waits for company",
        "encode_seconds": "seconds that the encoder may take at most",
        "breaker_failures": "failures in a row after which image queries fail at once",
        "breaker_seconds": "seconds until one is let through again",
    },
    "decoding": {
        "small_pixels": "images of more are decoded in a process of its own",
        "decode_memory_bytes": "bytes of memory that it may take",
        "decode_seconds": "seconds that it may take for an image",
    },
    "updates": {
        "allow_updates": "take upserts and deletes also without admin tokens",
        "updates_in_flight": "upserts and deletes at work at once",
        "journal_seconds": "how often to look for what others have written",
        "advise_items": "changed items from which on a reindex is advised",
        "max_items": "upserted items that are taken until then",
    },
    "fan_out": {
        "shard_share": "be a leaf: hold part I of N of every release's shards, given as I/N from 0 on",
        "leaves": "be a root: HOST:PORT of each leaf in the order of their shares, of replicas with commas between",
        "leaf_seconds": "seconds that a leaf may take at most; then it is left out",
        "min_coverage": "share of the items that must be searched for an answer, in (0, 1]",
        "leaf_poll_seconds": "how often to look at the leaves",
        "leaf_failures": "failures in a row after which a leaf isn't asked",
        "leaf_pause_seconds": "seconds until it is asked again",
        "hedge_percentile": "of a leaf's seconds, after which another replica is asked, in [0.5, 1]",
        "hedge_share": "share of the calls that may ask another replica, in [0, 1]",
    },
    "security": {
        "tls_cert": "certificate (chain) of the gateway, PEM",
        "tls_key": "its key, PEM",
        "client_ca": "clients must show a certificate of this authority, PEM",
        "read_tokens": "file with tokens that may ask",
        "admin_tokens": "file with tokens that may do everything",
        "encoder_ca": "ask the encoder over TLS; its authority, PEM",
        "encoder_cert": "our certificate for the encoder, PEM",
        "encoder_key": "its key, PEM",
        "leaf_ca": "ask leaves over TLS; their authority, PEM",
        "leaf_cert": "our certificate for them, PEM",
        "leaf_key": "its key, PEM",
        "leaf_token": "file with the token for them",
    },
    "logs": {
        "log_format": "text or json",
        "log_requests": "share of requests that are logged, in [0, 1]",
        "audit_file": "file that what admins do is written to",
    },
    "monitoring": {
        "metrics_port": "port of /metrics for Prometheus, 0 for a free one",
        "metrics_host": "address to listen on for it",
        "metrics_insecure": "listen for it beyond loopback",
        "metrics_port_file": "file to write that port to",
        "reconstruct_images": "share of query images that are reconstructed to see drift, in [0, 1]",
        "trace_endpoint": "OTLP collector (gRPC) that traces are sent to",
        "trace_requests": "share of requests that are traced where the caller doesn't say, in [0, 1]",
    },
}

# How a flag is read, by the type of its field; text otherwise.
_KINDS: dict[Any, type] = {int: int, int | None: int, float: float}


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
    parser.add_argument("--processes", type=int, default=absent, help="processes that listen together [1]")
    parser.add_argument("--cache", default=absent, help="folder for releases copied from an object store")
    parser.add_argument("--poll-seconds", type=float, default=absent, help="how often to look at CURRENT [1]")
    parser.add_argument("--keep-releases", type=int, default=absent, help="earlier releases kept for who pins them [1]")
    parser.add_argument("--keep-seconds", type=float, default=absent, help="how long they are kept [600]")
    parser.add_argument("--cached-items", type=int, default=absent, help="items a release keeps ready [100000]")
    parser.add_argument("--request-seconds", type=float, default=absent, help="longest a request may take [30]")
    parser.add_argument("--workers", type=int, default=absent, help="threads that decode and search [2]")
    parser.add_argument("--queue", type=int, default=absent, help="requests that may wait for a thread [256]")
    parser.add_argument("--drain-seconds", type=float, default=absent, help="NOT_SERVING before closing [0]")
    parser.add_argument("--grace-seconds", type=float, default=absent, help="for running requests at the end [10]")
    parser.add_argument("--reflection", action="store_true", default=absent, help="let tools list the API")
    parser.add_argument(
        "--insecure", action="store_true", default=absent, help="listen beyond loopback, in the clear and without auth"
    )
    for name, texts in _SECTIONS.items():
        group = parser.add_argument_group(name)
        for field in dataclasses.fields(SECTIONS[name]):
            default = "" if field.default in (None, dataclasses.MISSING) else f" [{field.default}]"
            kind = _KINDS.get(field.type, str)
            flag = "--" + field.name.replace("_", "-")
            if field.type == list[str]:
                group.add_argument(flag, nargs="+", metavar="TEXT", default=absent, help=texts[field.name])
            elif field.type is bool:
                group.add_argument(flag, action="store_true", default=absent, help=texts[field.name])
            else:
                group.add_argument(flag, type=kind, default=absent, help=texts[field.name] + default)


def run(arguments: argparse.Namespace) -> int:
    """Runs the gateway until it is told to stop; returns its exit code."""
    # Before NumPy is loaded: searches run on our threads, and BLAS's own would fight with them for the processors.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # Else gRPC's core writes a line of its own for every handshake that fails, however many there are.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

    from serving.gateway import logs
    from serving.gateway.config import ConfigError, GatewayConfig

    known = {field.name for options in (GatewayConfig, *SECTIONS.values()) for field in dataclasses.fields(options)}
    flags = {name: value for name, value in vars(arguments).items() if name in known}
    try:
        config = GatewayConfig.load(arguments.config, flags)
        logs.configure(config.logs)
        if config.processes > 1:
            from serving.gateway.supervisor import Supervisor

            return Supervisor(config).run()
        from serving.gateway.gateway import serve
        from serving.gateway.watcher import leave_at_once_if_opening

        asyncio.run(serve(config))
        leave_at_once_if_opening()
    except (ConfigError, OSError) as error:
        print(f"lookalike gateway: {error}", file=sys.stderr)
        return 2
    return 0
