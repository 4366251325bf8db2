"""One of several gateway processes on a port. Started by the supervisor: reads its options from stdin, ends with it.

It says on stdout that it listens.
"""

import asyncio
import json
import logging
import signal
import sys

from serving.gateway import logs
from serving.gateway.config import SECTIONS, ConfigError, GatewayConfig


def main() -> int:
    """Runs a gateway until SIGTERM, or until whoever started this is gone; returns the exit code."""
    # Of a Ctrl-C at the terminal all processes hear; it is the supervisor's to say.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    start = json.loads(sys.stdin.readline())
    logging.basicConfig(level=start["level"], format=logs.PROCESS_TEXT_FORMAT)
    values = start["config"]
    sections = {name: section(**values.pop(name)) for name, section in SECTIONS.items()}
    config = GatewayConfig(**values, **sections)
    try:
        logs.configure(config.logs)
        # Here, so that what is wrong with the options is said before gRPC and NumPy are loaded.
        from serving.gateway.gateway import serve
        from serving.gateway.watcher import leave_at_once_if_opening

        asyncio.run(serve(config, process=start["number"], listening=_tell, end_with=sys.stdin.fileno()))
        leave_at_once_if_opening()
    except (ConfigError, OSError) as error:
        print(f"lookalike gateway: {error}", file=sys.stderr)
        return 2
    return 0


def _tell() -> None:
    print("listening", flush=True)


if __name__ == "__main__":
    sys.exit(main())
