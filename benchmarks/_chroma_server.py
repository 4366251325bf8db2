"""Starts Chroma's own server on a free port: `python -m benchmarks._chroma_server FOLDER --port-file F`."""

import argparse
import os
import pathlib
import socket
import sys
import time


def main() -> None:
    """Becomes `chroma run`, once somebody else waits for its port."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--port-file", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    port = arguments.port
    if not port:
        # It can't choose one itself. Between here and its start another process might take it: then it says so.
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
    if not os.fork():
        _tell(port, arguments.port_file)
        os._exit(0)
    command = [str(pathlib.Path(sys.executable).parent / "chroma"), "run", "--path", str(arguments.folder)]
    os.execv(command[0], [*command, "--host", "127.0.0.1", "--port", str(port)])


def _tell(port: int, file: pathlib.Path) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.1)
        else:
            file.write_text(f"{port}\n")
            return


if __name__ == "__main__":
    main()
