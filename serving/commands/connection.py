"""The flags by which commands reach a running gateway, and what they say when that fails."""

import argparse
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from serving.client import Client

DEFAULT_ADDRESS = "127.0.0.1:50051"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags."""
    parser.add_argument("--address", default=DEFAULT_ADDRESS, metavar="HOST:PORT", help=f"[{DEFAULT_ADDRESS}]")
    parser.add_argument("--timeout", type=float, default=30.0, help="seconds to wait for the answer [30]")
    parser.add_argument("--ca", metavar="PEM", help="authority of the gateway's certificate: asks over TLS")
    parser.add_argument("--cert", metavar="PEM", help="our own certificate, where the gateway asks for one")
    parser.add_argument("--key", metavar="PEM", help="its key")
    parser.add_argument("--token-file", metavar="FILE", help="file with our token")


def ask(name: str, arguments: argparse.Namespace, question: Callable[["Client"], str]) -> int:
    """Prints what `question` returns; returns 0, 1 where the gateway said no, 2 where a file can't be read.

    name: of the command, for what goes wrong.
    """
    from serving.client import Client, Credentials, QueryFailed

    try:
        credentials = Credentials(arguments.ca, arguments.cert, arguments.key, arguments.token_file)
        with Client(arguments.address, timeout=arguments.timeout, credentials=credentials) as client:
            answer = question(client)
    except QueryFailed as error:
        print(f"lookalike {name}: {error} [{error.code}]", file=sys.stderr)
        return 1
    except (OSError, ValueError) as error:
        print(f"lookalike {name}: {error}", file=sys.stderr)
        return 2
    print(answer)
    return 0
