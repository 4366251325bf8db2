"""Takes items out of the collection of a running gateway.

  lookalike delete --id shoes/17.jpg

When it returns, that is kept: the item is in no answer of the gateway that was asked, within 2 seconds in none of any
other, and in no release that is made from now on, also where its image stays in the folder of images. Only a later
upsert brings it back. It takes a token for admins, where the gateway has tokens at all.
"""

import argparse
from typing import TYPE_CHECKING

from serving.commands import connection

if TYPE_CHECKING:
    from serving.client import Client

HELP = "take items out of the collection of a running gateway"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this command's flags."""
    parser.add_argument("--id", required=True, help="the item's id")
    parser.add_argument(
        "--purge", action="store_true", help="its bytes are to be erased from everything that is kept, too"
    )
    connection.add_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Deletes; returns 0, also where there was no such item, 1 where the gateway said no."""

    def delete(client: "Client") -> str:
        done = client.delete(arguments.id, purge=arguments.purge)
        text = f"{done.item_id} {'deleted' if done.found else 'was not there; it is deleted all the same'}"
        return text + "; it is time to reindex" * done.reindex_advised

    return connection.ask("delete", arguments, delete)
