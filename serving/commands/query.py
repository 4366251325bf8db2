"""Asks a running gateway which images look like one, and prints them, best first.

  lookalike query --image photo.jpg            like this file
  lookalike query --item-id shoes/17.png -k 5  like an item of the collection, itself left out
  lookalike query --vector 0.1,-0.2,0.3        like an embedding
  lookalike query --image photo.jpg --filter 'label = "9" and (width >= 20 or not color in ("red", "blue"))'

A filter compares attributes, and item_id, width and height, by =, !=, <, <=, >, >= and in. Text stands in quotes. An
item without the attribute, or where it is of another kind than the value, matches no comparison. In `backticks` any
name is an attribute.

The score is the cosine of the two embeddings: 1 is identical, 0 unrelated.
"""

import argparse
import dataclasses
import json
import pathlib
import sys
from typing import TYPE_CHECKING

from serving.commands import connection

if TYPE_CHECKING:
    from serving.client import Answer, Client
    from serving.search.filters import Filter

HELP = "ask a running gateway for the images most like one"
_LONGEST_CELL = 60


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this command's flags."""
    query = parser.add_mutually_exclusive_group(required=True)
    query.add_argument("--image", type=pathlib.Path, help="an image file: JPEG, PNG, WebP, GIF, BMP or TIFF")
    query.add_argument("--item-id", help="an item of the collection")
    query.add_argument("--vector", type=_vector, help="an embedding: numbers with commas between (--vector=-0.1,0.2)")
    parser.add_argument("--filter", type=_filter, help="which items may be in the answer, as above")
    parser.add_argument("--min-score", type=float, help="leave out what scores lower, in [-1, 1]")
    collapse = parser.add_mutually_exclusive_group()
    collapse.add_argument("--collapse", type=float, help="show one of near-duplicates: from this cosine on, in (0, 1]")
    collapse.add_argument(
        "--collapse-duplicates", action="store_true", help="show one of near-duplicates: by the groups of the release"
    )
    parser.add_argument("--release", default="", metavar="ID", help="answer from this release or not at all")
    parser.add_argument("-k", type=int, default=10, help="how many, in [1, 1000] [10]")
    connection.add_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run(arguments: argparse.Namespace) -> int:
    """Asks and prints; returns 0, 1 where the gateway said no, 2 where a file can't be read."""
    try:
        image = None if arguments.image is None else arguments.image.read_bytes()
    except OSError as error:
        print(f"lookalike query: can't read {arguments.image}: {error.strerror}.", file=sys.stderr)
        return 2

    def search(client: "Client") -> str:
        answer = client.search(
            image=image,
            vector=arguments.vector,
            item_id=arguments.item_id,
            k=arguments.k,
            min_score=arguments.min_score,
            filter=arguments.filter,
            collapse=arguments.collapse,
            collapse_groups=arguments.collapse_duplicates,
            release_id=arguments.release,
        )
        return _json(answer) if arguments.json else _table(answer)

    return connection.ask("query", arguments, search)


def _vector(text: str) -> list[float]:
    try:
        return [float(value) for value in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"numbers with commas between, like 0.1,-0.2; got {text[:40]!r}") from None


def _filter(text: str) -> "Filter":
    from serving.search.filter_language import FilterSyntaxError, parse

    try:
        return parse(text)
    except FilterSyntaxError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _json(answer: "Answer") -> str:
    value = dataclasses.asdict(answer)
    for neighbor in value["neighbors"]:
        # Bytes are no JSON, and a search never fills it.
        del neighbor["item"]["thumbnail"]
    return json.dumps(value, indent=1)


def _table(answer: "Answer") -> str:
    rows = [("RANK", "SCORE", "ITEM", "SIZE", "ATTRIBUTES")]
    for rank, neighbor in enumerate(answer.neighbors, 1):
        item = neighbor.item
        attributes = " ".join(f"{name}={value}" for name, value in sorted(item.attributes.items()))
        if neighbor.collapsed:
            attributes = f"(+{neighbor.collapsed} alike) {attributes}"
        rows.append((str(rank), f"{neighbor.score:.4f}", item.item_id, f"{item.width}x{item.height}", attributes))
    widths = [min(_LONGEST_CELL, max(len(row[i]) for row in rows)) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    total = answer.decode_seconds + answer.encode_seconds + answer.search_seconds
    if answer.matching is not None:
        lines.append(f"{answer.matching} {'item matches' if answer.matching == 1 else 'items match'} the filter")
    if answer.degraded:
        lines.append(f"degraded: only {100 * answer.coverage:.1f} % of the items could be searched")
    lines.append(
        f"release {answer.release_id}, encoder version {answer.encoder_version}, {1000 * total:.1f} ms "
        f"(decode {1000 * answer.decode_seconds:.1f}, encode {1000 * answer.encode_seconds:.1f}, "
        f"search {1000 * answer.search_seconds:.1f}, {answer.method.replace('_', ' ')})"
    )
    return "\n".join(lines)
