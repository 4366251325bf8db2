"""The files of an Examples artifact: shard j of every split, read in record order."""

import dataclasses
import itertools
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from components import features
from components.embedding.record_file import iterate_records
from components.ingest.notes import Note
from serving.release.items import Attribute, Item
from serving.storage import open_store

SPLITS = ("train", "eval")
_FILE = re.compile(r"Split-(\w+)/.*-(\d{5})-of-(\d{5})\.gz")
_READ_BUFFER = 2**20
# So many are read sooner than TensorFlow has set up its reader.
_FEW = 2000
# The features that no item lacks: those named in _record.
_EVERY_ITEM_HAS = 6


@dataclasses.dataclass(frozen=True)
class ExampleShard:
    """One shard: its train file, then its eval file. Record numbers count through both."""

    shard: int
    files: tuple[tuple[str, str], ...]


class Record(NamedTuple):
    """One item as it was ingested. image: canonical bytes. split: `train` or `eval`."""

    item_id: str
    uri: str
    sha256: str
    width: int
    height: int
    attributes: dict[str, Attribute]
    image: bytes
    split: str

    def item(self, thumbnail: bytes, note: Note) -> Item:
        """Returns the item with its thumbnail, and with what is noted beside the example."""
        attributes = self.attributes if note.attributes is None else note.attributes
        named = (self.item_id, self.uri, self.sha256, self.width, self.height)
        return Item(*named, attributes, thumbnail, note.size, note.version)


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


def read_records(shard: ExampleShard) -> Iterator[Record]:
    """Yields the records of a shard in order."""
    for split, file in shard.files:
        for serialized in iterate_records(file):
            yield _record(serialized, split)


def read_images(
    shard: ExampleShard, wanted: npt.NDArray[np.int64], batch_size: int
) -> Iterator[tuple[npt.NDArray[np.int64], tf.Tensor]]:
    """Yields (record numbers int64 `[B]`, canonical images string `[B]`) of the `wanted` records, in order.

    B is `batch_size`, but for the last. Where there are many all of it runs inside TensorFlow: Python sees batches,
    never records.
    """
    if len(wanted) <= _FEW:
        yield from _read_few(shard, wanted, batch_size)
        return
    mask = np.zeros(int(wanted.max()) + 1, bool)
    mask[wanted] = True
    spec = {features.IMAGE: tf.io.FixedLenFeature([], tf.string)}

    def choose(records: tf.Tensor, chosen: tf.Tensor) -> tf.Tensor:
        return tf.io.parse_example(tf.boolean_mask(records, chosen), spec)[features.IMAGE]

    records = _records([file for _, file in shard.files]).batch(batch_size)
    chosen = tf.data.Dataset.from_tensor_slices(mask).batch(batch_size)
    # Both end with the last record that is wanted; its batch may be longer than what the mask says of it.
    images = tf.data.Dataset.zip((records, chosen)).map(lambda r, c: choose(r[: tf.size(c)], c)).prefetch(2)
    pending: list[tf.Tensor] = []
    count = done = 0
    for some in images:
        pending.append(some)
        count += len(some)
        if count >= batch_size:
            joined = some if len(pending) == 1 else tf.concat(pending, 0)
            yield wanted[done : done + batch_size], joined[:batch_size]
            done += batch_size
            pending, count = [joined[batch_size:]], count - batch_size
    if count:
        yield wanted[done : done + count], tf.concat(pending, 0)


def _read_few(
    shard: ExampleShard, wanted: npt.NDArray[np.int64], batch_size: int
) -> Iterator[tuple[npt.NDArray[np.int64], tf.Tensor]]:
    records = enumerate(itertools.chain.from_iterable(iterate_records(file) for _, file in shard.files))
    chosen = frozenset(wanted.tolist())
    found = (_image(serialized) for number, serialized in records if number in chosen)
    for start in range(0, len(wanted), batch_size):
        images = list(itertools.islice(found, batch_size))
        # Fewer where the files hold less than they should: the caller counts.
        if images:
            yield wanted[start : start + len(images)], tf.constant(images, tf.string)


def _image(serialized: bytes) -> bytes:
    return bytes(tf.train.Example.FromString(serialized).features.feature[features.IMAGE].bytes_list.value[0])


def _records(files: list[str]) -> tf.data.Dataset:
    return tf.data.TFRecordDataset(files, compression_type="GZIP", buffer_size=_READ_BUFFER)


def _record(serialized: bytes, split: str) -> Record:
    values = tf.train.Example.FromString(serialized).features.feature
    attributes: dict[str, Attribute] = {}
    if len(values) > _EVERY_ITEM_HAS:
        for name in values:
            attribute = features.LABEL if name == features.LABEL else features.attribute_name(name)
            value = None if attribute is None else _value(values[name])
            if attribute is not None and value is not None:
                attributes[attribute] = value
    return Record(
        item_id=values[features.ITEM_ID].bytes_list.value[0].decode(),
        uri=values[features.URI].bytes_list.value[0].decode(),
        sha256=values[features.SHA256].bytes_list.value[0].decode(),
        width=values[features.WIDTH].int64_list.value[0],
        height=values[features.HEIGHT].int64_list.value[0],
        attributes=attributes,
        image=values[features.IMAGE].bytes_list.value[0],
        split=split,
    )


def _value(feature: Any) -> Attribute | None:
    kind = feature.WhichOneof("kind")
    values: Any = getattr(feature, kind).value if kind else ()
    if not len(values):
        return None
    return values[0].decode() if kind == "bytes_list" else values[0]
