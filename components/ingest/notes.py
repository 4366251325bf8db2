"""What ingest notes of a shard's items beside their examples: the only place that spells the names of these files.

`contents/00000-of-00008.npy`: uint8 `[n, 32]`, the sha256 of each item's canonical image, in the order of the examples,
train before eval: whoever asks what a collection contains needn't read the images. Each item once, also where one split
is a copy of the other.
`kept/00000-of-00008.npy`: int64 `[n, 3]`, the items of the base release that need not be read again: (shard, row, held
out), sorted by item id. `kept/00000-of-00008.jsonl`: {"at", "attributes"} of those whose attributes are others now.
"""

import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from components.artifact_files import fetched, stored
from serving.release.cached_embeddings import KEY_BYTES, Keys
from serving.release.items import Attribute
from serving.storage import Store


class Kept(NamedTuple):
    """Items that the base release holds. places: int64 `[n, 2]` of (shard, row). held_out: bool `[n]`.

    attributes: place in the list -> attributes, where they differ from the base's.
    """

    places: npt.NDArray[np.int64]
    held_out: npt.NDArray[np.bool_]
    attributes: Mapping[int, dict[str, Attribute]]


NO_KEPT = Kept(np.zeros((0, 2), np.int64), np.zeros(0, bool), {})


def _contents_file(shard: int, shards: int) -> str:
    return f"contents/{shard:05d}-of-{shards:05d}.npy"


def write_contents(store: Store, shard: int, shards: int, sha256s: Sequence[str]) -> None:
    """Writes what a shard's items contain, given the sha256 of each, in hex, in the order of the examples."""
    keys = np.frombuffer(bytes.fromhex("".join(sha256s)), np.uint8).reshape(-1, KEY_BYTES)
    with stored(store, _contents_file(shard, shards)) as path, path.open("wb") as handle:
        np.save(handle, keys, allow_pickle=False)


def read_contents_of(store: Store, shard: int, shards: int) -> Keys:
    """Returns what `write_contents` wrote, uint8 `[n, 32]`; raises ValueError where the examples are without."""
    name = _contents_file(shard, shards)
    if not store.exists(name):
        raise ValueError(f"{store.uri} must hold {name}: its examples are of another version, ingest again.")
    with fetched(store, name) as path:
        keys: Keys = np.load(path, allow_pickle=False)
    return keys


def _kept_file(shard: int, shards: int, suffix: str) -> str:
    return f"kept/{shard:05d}-of-{shards:05d}.{suffix}"


def write_kept(store: Store, shard: int, shards: int, kept: Kept) -> None:
    """Writes what a shard keeps of the base release."""
    with stored(store, _kept_file(shard, shards, "npy")) as path, path.open("wb") as handle:
        np.save(handle, np.column_stack([kept.places, kept.held_out.astype(np.int64)]), allow_pickle=False)
    lines = [json.dumps({"at": at, "attributes": dict(values)}) + "\n" for at, values in kept.attributes.items()]
    store.write(_kept_file(shard, shards, "jsonl"), "".join(lines).encode())


def read_kept(store: Store, shard: int, shards: int) -> Kept:
    """Returns what a shard keeps of the base release; nothing where there was none."""
    name = _kept_file(shard, shards, "npy")
    if not store.exists(name):
        return NO_KEPT
    with fetched(store, name) as path:
        rows = np.load(path, allow_pickle=False)
    lines = map(json.loads, store.read(_kept_file(shard, shards, "jsonl")).splitlines())
    return Kept(rows[:, :2], rows[:, 2].astype(bool), {line["at"]: line["attributes"] for line in lines})


def attributes_differ(stored: Mapping[str, Attribute], listed: Mapping[str, Attribute]) -> bool:
    """Returns whether attributes differ, in value or type: 1, 1.0 and true are equal to Python only."""
    return dict(stored) != dict(listed) or any(type(stored[name]) is not type(listed[name]) for name in stored)


def as_stored(attributes: Sequence[tuple[str, Attribute]], label: str | None) -> dict[str, Attribute]:
    """Returns listed attributes as an example gives them back: floats of 32 bits, the label among them."""
    # An example holds no more of a float.
    found = {name: float(np.float32(value)) if isinstance(value, float) else value for name, value in attributes}
    return found if label is None else {**found, "label": label}
