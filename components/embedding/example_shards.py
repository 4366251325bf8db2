"""The files of an Examples artifact: shard j of every split, read in record order."""

import dataclasses
import itertools
import re
from collections.abc import Iterator

from components.embedding.record_file import iterate_records
from serving.storage import open_store

SPLITS = ("train", "eval")
_FILE = re.compile(r"Split-(\w+)/.*-(\d{5})-of-(\d{5})\.gz")


@dataclasses.dataclass(frozen=True)
class ExampleShard:
    """One shard: its train file, then its eval file. Record numbers count through both."""

    shard: int
    files: tuple[tuple[str, str], ...]


def list_shards(uri: str) -> list[ExampleShard]:
    """Returns the shards of the Examples artifact at `uri`; raises ValueError where its splits don't match."""
    found: dict[str, dict[int, str]] = {split: {} for split in SPLITS}
    counts = set()
    store = open_store(uri)
    for stat in store.files(""):
        match = _FILE.fullmatch(stat.path)
        if match and match[1] in found:
            found[match[1]][int(match[2])] = f"{store.uri}/{stat.path}"
            counts.add(int(match[3]))
    if len(counts) != 1:
        raise ValueError(f"the examples at {uri} must have one number of shards in every split, got {sorted(counts)}.")
    shards = counts.pop()
    for split, files in found.items():
        if sorted(files) != list(range(shards)):
            raise ValueError(f"split {split!r} at {uri} must hold {shards} shards, got {sorted(files)}.")
    return [ExampleShard(j, tuple((split, found[split][j]) for split in SPLITS)) for j in range(shards)]


def read_records(shard: ExampleShard, at_once: int) -> Iterator[list[bytes]]:
    """Yields the records of a shard, serialized tf.Examples, in order, `at_once` or fewer at a time."""
    for _, file in shard.files:
        records = iterate_records(file)
        while some := list(itertools.islice(records, at_once)):
            yield some
