"""Adds an image to the collection of a running gateway, or replaces the one with its id.

  lookalike upsert --image photo.jpg --id shoes/17.jpg --attribute label=shoe --attribute price=49.90

When it returns, the image is kept: it is found at once by the gateway that was asked, within 2 seconds by all others,
and every release that is made from now on holds it. It takes a token for admins, where the gateway has tokens at all.

An attribute is a number, true or false where it reads as one, else text; quotes make it text: --attribute 'size="42"'.
Only `label` is text in any case, as in releases: --attribute label=7.
"""

import argparse
import json
import math
import pathlib
import sys
from typing import TYPE_CHECKING

from serving.commands import connection

if TYPE_CHECKING:
    from serving.client import Client

HELP = "add an image to the collection of a running gateway"


# A filter that asks for a label finds nothing where the same one is a number.
_LABEL = "label"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this command's flags."""
    parser.add_argument(
        "--image", type=pathlib.Path, required=True, help="an image file: JPEG, PNG, WebP, GIF, BMP or TIFF"
    )
    parser.add_argument("--id", required=True, help="the item's id: 1 to 1024 printable characters")
    parser.add_argument(
        "--attribute", type=_attribute, action="append", default=[], metavar="NAME=VALUE", help="as often as needed"
    )
    parser.add_argument("--uri", default="", help="where the original lies, for people")
    connection.add_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Upserts; returns 0, 1 where the gateway said no, 2 where a file can't be read."""
    try:
        image = arguments.image.read_bytes()
    except OSError as error:
        print(f"lookalike upsert: can't read {arguments.image}: {error.strerror}.", file=sys.stderr)
        return 2

    def upsert(client: "Client") -> str:
        done = client.upsert(arguments.id, image, dict(arguments.attribute), uri=arguments.uri)
        text = f"{done.item_id} {'replaced' if done.replaced else 'added'}, beside release {done.release_id}"
        return text + "; it is time to reindex" * done.reindex_advised

    return connection.ask("upsert", arguments, upsert)


def _attribute(text: str) -> tuple[str, str | int | float | bool]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"NAME=VALUE, like label=shoe; got {text[:40]!r}")
    try:
        parsed = json.loads(value)
    except ValueError:
        return name, value
    if name == _LABEL and not isinstance(parsed, str):
        return name, value
    # JSON also reads Infinity, lists and null.
    plain = isinstance(parsed, str | int) or (isinstance(parsed, float) and math.isfinite(parsed))
    return name, parsed if plain else value
