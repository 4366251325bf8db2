"""The files of an Examples artifact: shard j of every split, read in record order."""

import dataclasses
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from components import features
from serving.release.items import Attribute, Item
from serving.storage import open_store

SPLITS = ("train", "eval")
_FILE = re.compile(r"Split-(\w+)/.*-(\d{5})-of-(\d{5})\.gz")
_READ_BUFFER = 2**20


@dataclasses.dataclass(frozen=True)
class ExampleShard:
    """One shard: its train file, then its eval file. Record numbers count through both."""

    shard: int
    files: tuple[tuple[str, str], ...]


@dataclasses.dataclass(frozen=True)
class Record:
    """One item as it was ingested. image: canonical bytes. split: `train` or `eval`. The item has no thumbnail yet."""

    item: Item
    image: bytes
    split: str


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


def read_records(shard: ExampleShard, batch_size: int = 256) -> Iterator[list[Record]]:
    """Yields the records of a shard in order, in lists of at most `batch_size`."""
    for split, file in shard.files:
        for batch in _records([file]).batch(batch_size).prefetch(1).as_numpy_iterator():
            yield [_record(serialized, split) for serialized in batch]


def read_images(
    shard: ExampleShard, wanted: npt.NDArray[np.int64], batch_size: int
) -> Iterator[tuple[npt.NDArray[np.int64], tf.Tensor]]:
    """Yields (record numbers int64 `[B]`, canonical images string `[B]`) of the `wanted` records, in order.

    All of it runs inside TensorFlow: Python sees batches, never records.
    """
    if not len(wanted):
        return
    mask = np.zeros(int(wanted.max()) + 1, bool)
    mask[wanted] = True
    chosen = tf.constant(mask)
    spec = {features.IMAGE: tf.io.FixedLenFeature([], tf.string)}
    images = (
        _records([file for _, file in shard.files])
        .enumerate()
        .take(len(mask))
        .filter(lambda number, _: chosen[number])
        .batch(batch_size)
        .map(lambda numbers, records: (numbers, tf.io.parse_example(records, spec)[features.IMAGE]))
        .prefetch(2)
    )
    for numbers, batch in images:
        yield numbers.numpy(), batch


def _records(files: list[str]) -> tf.data.Dataset:
    return tf.data.TFRecordDataset(files, compression_type="GZIP", buffer_size=_READ_BUFFER)


def _record(serialized: bytes, split: str) -> Record:
    example = tf.train.Example.FromString(serialized)
    values: dict[str, Any] = {name: _value(feature) for name, feature in example.features.feature.items()}
    attributes: dict[str, Attribute] = {}
    for name, value in values.items():
        attribute = features.LABEL if name == features.LABEL else features.attribute_name(name)
        if attribute is not None and value is not None:
            attributes[attribute] = value.decode() if isinstance(value, bytes) else value
    item = Item(
        item_id=values[features.ITEM_ID].decode(),
        uri=values[features.URI].decode(),
        sha256=values[features.SHA256].decode(),
        width=values[features.WIDTH],
        height=values[features.HEIGHT],
        attributes=attributes,
    )
    return Record(item, values[features.IMAGE], split)


def _value(feature: Any) -> Any:
    kind = feature.WhichOneof("kind")
    values: Any = getattr(feature, kind).value if kind else ()
    return values[0] if len(values) else None
