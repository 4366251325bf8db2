"""Runs worker processes for a Beam job whose options say where they are: see docs/engines.md."""

import argparse
import pathlib
import signal
import threading

HELP = "run worker processes for Beam jobs"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `lookalike workers`."""
    parser.add_argument("--processes", type=int, default=2, help="how many each job gets (default: 2)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: loopback)")
    parser.add_argument("--port", type=int, default=0, help="port to listen on (default: a free one)")
    parser.add_argument("--port-file", type=pathlib.Path, help="file to write the port to, once it listens")


def run(arguments: argparse.Namespace) -> int:
    """Runs `lookalike workers` until it is told to end; returns its exit code."""
    from pipeline.workers.pool import WorkerPool

    pool = WorkerPool(arguments.processes, arguments.host, arguments.port)
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    pool.start()
    if arguments.port_file:
        arguments.port_file.write_text(f"{pool.port}\n")
    print(f"--environment_type=EXTERNAL --environment_config={pool.address}", flush=True)
    ended.wait()
    pool.stop()
    return 0
