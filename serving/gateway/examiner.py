"""Looks at every byte of a release in a process of its own, in spare time, while another one is served.

  python -m serving.gateway.examiner < JSON > what was found

A gateway's threads share one lock, and its clients wait for all of them. In: see `Examination`. Out: the length of a
JSON object (8 bytes, big-endian), the object, and then the arrays whose sizes are its `sizes`: of each shard its ranks,
all ranks, and rows with the lengths of their items, and these items, serialized.
"""

import contextlib
import json
import pathlib
import struct
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from serving.gateway.conversion import to_item
from serving.release import layout
from serving.release.items import ItemShard
from serving.release.reader import check_release, read_manifest
from serving.release.share import Share
from serving.release.verify import DAMAGE, ReleaseRefused
from serving.storage import Store, open_store

HEAD = struct.Struct(">Q")
_BATCH = 1000
Rows = npt.NDArray[np.int64]


def main() -> None:
    """Reads what to do from stdin, does it, and says what was found."""
    found, arrays = examine(json.loads(sys.stdin.buffer.read()))
    head = json.dumps({**found, "sizes": [len(array) for array in arrays]}).encode()
    sys.stdout.buffer.write(HEAD.pack(len(head)) + head)
    for array in arrays:
        sys.stdout.buffer.write(array)


def examine(asked: dict[str, Any]) -> tuple[dict[str, Any], list[bytes]]:
    """Returns the JSON object and the arrays."""
    store = open_store(asked["root"])
    cache = None if asked["cache"] is None else pathlib.Path(asked["cache"])
    share = None if asked["share"] is None else Share.parse(asked["share"])
    try:
        checked, shards = check_release(store, asked["release_id"], cache=cache, share=share)
        names = _names(store, cache, share, asked["served"], asked["rows"])
        rows = _rows(shards, names, asked["items"])
        items = [to_item(item).SerializeToString() for item in _read(shards, rows)]
    except ReleaseRefused as error:
        return {"refused": error.reason, "fault": error.fault}, []
    except OSError as error:
        return {"unavailable": str(error)}, []
    lengths = np.array([len(item) for item in items], np.int64)
    ranks = [array.tobytes() for array in (*checked.ranks, checked.all_ranks)]
    found = {"encoder_info": checked.encoder_info.decode()}
    return found, [*ranks, rows.tobytes(), lengths.tobytes(), b"".join(items)]


def _names(
    store: Store, cache: pathlib.Path | None, share: Share | None, release_id: str, rows: Sequence[int]
) -> list[str]:
    """Returns the ids of some rows of a release; none where it is there no longer."""
    if not rows or share is None:
        return []
    try:
        shards = read_manifest(store, release_id).index.shards
        folder = store.local_path(layout.release_folder(release_id)) or (cache or pathlib.Path()) / release_id
        with contextlib.ExitStack() as stack:
            files = [folder / shards[number].items for number in share.shards(len(shards))]
            opened = [stack.enter_context(contextlib.closing(ItemShard(file))) for file in files]
            return [item.item_id for item in _read(opened, np.array(rows))]
    except (OSError, ReleaseRefused, *DAMAGE):
        # Pruned meanwhile: nobody is told that it can't be served, for it is.
        return []


def _rows(shards: Sequence[ItemShard], names: Sequence[str], most: int) -> Rows:
    """Returns the rows of `names` that there are, after as many others as there is room for in `most`."""
    start = 0
    wanted: set[int] = set()
    for shard in shards:
        wanted.update(row + start for row in shard.rows_of(names).values())
        start += shard.count
    others = [row for row in range(min(start, most)) if row not in wanted][: max(0, most - len(wanted))]
    return np.array([*others, *sorted(wanted)][:most], np.int64)


def _read(shards: Sequence[ItemShard], rows: Rows) -> Iterator[Any]:
    """Yields the items of some rows of all shards, one after the other, in the order of `rows`."""
    starts = np.cumsum([0, *(shard.count for shard in shards)])
    owners = np.searchsorted(starts, rows, side="right") - 1
    for begin in range(0, len(rows), _BATCH):
        found: dict[int, Any] = {}
        batch = slice(begin, begin + _BATCH)
        for number in np.unique(owners[batch]).tolist():
            ours = rows[batch][owners[batch] == number]
            read = shards[number].by_row((ours - starts[number]).tolist())
            found.update(zip(ours.tolist(), read, strict=True))
        yield from (found[row] for row in rows[batch].tolist())


if __name__ == "__main__":
    main()
