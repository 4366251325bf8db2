"""What the commands that work on a serving root share: how they end, name themselves and print."""

import datetime
import json
import os
import socket
from typing import Any


class Problem(Exception):
    """Ends a command. code: its exit code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def holder(command: str) -> str:
    """Returns what a lease says of who holds it. command: as it was called, such as `releases prune`."""
    return f"lookalike {command}, process {os.getpid()} on {socket.gethostname()}"


def utc(seconds: float) -> str:
    """Returns seconds since the epoch as people read them."""
    return f"{datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc):%Y-%m-%d %H:%M:%SZ}"


def print_json(value: Any) -> None:
    """Prints a JSON value."""
    print(json.dumps(value, indent=1, sort_keys=True))
