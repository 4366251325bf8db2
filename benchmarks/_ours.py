"""Lookalike as a peer of the others, in the serving environment.

`python -m benchmarks._ours gateway FOLDER --address HOST:PORT` asks a gateway by our own client, one call a query;
`gathering` by the one for many threads, which sends together what is asked for at the same time; `process FOLDER --root
ROOT` searches the release in this process. Then it answers jobs of benchmarks/_queries.py.
"""

import argparse
import pathlib

import numpy as np
import numpy.typing as npt

from benchmarks._queries import K, Search, do_jobs
from serving.client import Client, GatheringClient
from serving.release.current import read_current
from serving.release.reader import open_release
from serving.storage import open_store


def by_gateway(client: Client) -> Search:
    """Returns a search by a client."""

    def search(vector: npt.NDArray[np.float32]) -> list[int]:
        return [_number(neighbor.item.item_id) for neighbor in client.search(vector=vector.tolist(), k=K).neighbors]

    return search


def in_process(root: str) -> Search:
    """Returns a search of the current release."""
    store = open_store(root)
    release = open_release(store, read_current(store) or "")

    def search(vector: npt.NDArray[np.float32]) -> list[int]:
        return [_number(neighbor.item.item_id) for neighbor in release.search(vector, K)]

    return search


def _number(item_id: str) -> int:
    # See benchmarks/_releases.py.
    return int(item_id[-10:-4])


def main() -> None:
    """Connects, and answers jobs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("how", choices=("gateway", "gathering", "process"))
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--address", default="")
    parser.add_argument("--root", default="")
    arguments = parser.parse_args()
    if arguments.how == "process":
        search = in_process(arguments.root)
    else:
        search = by_gateway((Client if arguments.how == "gateway" else GatheringClient)(arguments.address))
    do_jobs(search, arguments.folder, {"setting": {}, "tried": [], "build_seconds": 0.0})


if __name__ == "__main__":
    main()
