"""Starts the service of the last release on this machine, and leaves it running: model server and gateway.

  lookalike serve --serving-root demo/serving          starts both; says where the gateway listens
  lookalike serve --serving-root demo/serving --stop   stops both

Logs and process ids are kept in `processes/<the serving root's name>` beside the serving root. Ask with `lookalike
query`; with --allow-updates also `lookalike upsert` and `lookalike delete` are for everybody on this machine.
"""

import argparse
import json
import pathlib
import sys

from pipeline import processes

HELP = "start or stop the service of the last release on this machine"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this command's flags."""
    parser.add_argument("--serving-root", default="demo/serving", help="where releases are (default: %(default)s)")
    parser.add_argument("--model-name", default="encoder", help="the model in the serving root (default: %(default)s)")
    parser.add_argument("--port", type=int, default=50051, help="the gateway's port (default: %(default)s)")
    parser.add_argument("--encoder-port", type=int, default=8500, help="the model server's port (default: %(default)s)")
    parser.add_argument(
        "--allow-updates", action="store_true", help="take upserts and deletes, and keep them in the root"
    )
    parser.add_argument("--stop", action="store_true", help="stop what an earlier call started")


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns 0 with the service answering (or stopped), 1 where it can't."""
    root = pathlib.Path(arguments.serving_root).absolute()
    # One for each root: of another one beside it, other processes are at work.
    folder = root.parent / "processes" / root.name
    state = folder / "service.json"
    running = _running(state, folder)
    if arguments.stop:
        for pid in reversed(running):
            processes.stop_pid(pid, folder)
        state.unlink(missing_ok=True)
        print(f"stopped {len(running)} processes")
        return 0
    if running:
        print(f"already running: processes {running}; stop them with --stop", file=sys.stderr)
        return 1
    if not (root / "CURRENT").exists():
        print(f"no release in {root}; `lookalike run` publishes one", file=sys.stderr)
        return 1
    started: list[processes.Process] = []
    try:
        server = processes.start_model_server(str(root), arguments.model_name, folder, arguments.encoder_port)
        started.append(server)
        encoder = f"127.0.0.1:{server.wait_for_port(120)}"
        gateway = processes.start_gateway(
            str(root), encoder, folder, arguments.port, allow_updates=arguments.allow_updates
        )
        started.append(gateway)
        address = f"127.0.0.1:{gateway.wait_for_port(60)}"
        release = processes.wait_until_serving(address, gateway, timeout=120)
    except processes.ProcessError as error:
        for process in reversed(started):
            process.stop()
        print(f"lookalike serve: {error}", file=sys.stderr)
        return 1
    state.write_text(json.dumps([process.pid for process in started]))
    print(f"release {release} is served at {address} (model server at {encoder}); logs in {folder}")
    return 0


def _running(state: pathlib.Path, folder: pathlib.Path) -> list[int]:
    pids = json.loads(state.read_text()) if state.exists() else []
    return [pid for pid in pids if processes.is_running(pid, folder)]
