"""The files of an Examples artifact: shard j of every split, read in record order, some hundred records at a time."""

import dataclasses
import functools
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
from tensorflow_metadata.proto.v0 import schema_pb2
from tfx_bsl.coders.example_coder import ExamplesToRecordBatchDecoder

from components import features
from components.embedding.record_file import iterate_records
from serving.release.items import Attribute
from serving.storage import open_store

SPLITS = ("train", "eval")
_FILE = re.compile(r"Split-(\w+)/.*-(\d{5})-of-(\d{5})\.gz")
# Of records that are decoded in one go; larger images come fewer at a time.
_MOST_RECORDS = 512
_MOST_BYTES = 2**24


@dataclasses.dataclass(frozen=True)
class ExampleShard:
    """One shard: its train file, then its eval file. Record numbers count through both."""

    shard: int
    files: tuple[tuple[str, str], ...]


class Contents(NamedTuple):
    """What n records that follow each other contain: ids, and the sha256 of their canonical images, 32 bytes each."""

    item_ids: list[str]
    keys: list[bytes]
    split: str


class Records(NamedTuple):
    """n records that follow each other, a list for every field. images: canonical. split: `train` or `eval`."""

    item_ids: list[str]
    uris: list[str]
    sha256s: list[str]
    widths: list[int]
    heights: list[int]
    attributes: list[dict[str, Attribute]]
    images: list[bytes]
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


def read_contents(shard: ExampleShard) -> Iterator[Contents]:
    """Yields what the records of a shard contain, in order."""
    decoder = _contents_decoder()
    for split, file in shard.files:
        for serialized in _batches(iterate_records(file)):
            found = decoder.DecodeBatch(serialized)
            keys = map(bytes.fromhex, _texts(found, features.SHA256))
            yield Contents(_texts(found, features.ITEM_ID), list(keys), split)


def read_records(shard: ExampleShard) -> Iterator[Records]:
    """Yields the records of a shard in order."""
    decoder = ExamplesToRecordBatchDecoder()
    for split, file in shard.files:
        for serialized in _batches(iterate_records(file)):
            for found in _decoded(decoder, serialized):
                yield Records(
                    item_ids=_texts(found, features.ITEM_ID),
                    uris=_texts(found, features.URI),
                    sha256s=_texts(found, features.SHA256),
                    widths=_values(found, features.WIDTH),
                    heights=_values(found, features.HEIGHT),
                    attributes=_attributes(found),
                    images=_values(found, features.IMAGE),
                    split=split,
                )


@functools.cache
def _contents_decoder() -> Any:
    names = (features.ITEM_ID, features.SHA256)
    schema = schema_pb2.Schema(feature=[schema_pb2.Feature(name=name, type=schema_pb2.BYTES) for name in names])
    return ExamplesToRecordBatchDecoder(schema.SerializeToString())


def _batches(records: Iterable[bytes]) -> Iterator[list[bytes]]:
    some: list[bytes] = []
    size = 0
    for record in records:
        some.append(record)
        size += len(record)
        if len(some) == _MOST_RECORDS or size >= _MOST_BYTES:
            yield some
            some, size = [], 0
    if some:
        yield some


def _decoded(decoder: Any, serialized: Sequence[bytes]) -> Iterator[pa.RecordBatch]:
    try:
        found = decoder.DecodeBatch(serialized)
    except RuntimeError:
        # A column is of one type, and an attribute need not be: such records are decoded one by one.
        if len(serialized) == 1:
            raise
        for record in serialized:
            yield decoder.DecodeBatch([record])
        return
    yield found


def _values(records: pa.RecordBatch, name: str) -> list[Any]:
    """Returns the values of a feature of which every record holds one."""
    at = records.schema.get_field_index(name)
    values: list[Any] = [] if at < 0 else records.column(at).flatten().to_pylist()
    if len(values) != records.num_rows:
        raise ValueError(f"every example must hold one {name!r}, {records.num_rows} of them hold {len(values)}.")
    return values


def _texts(records: pa.RecordBatch, name: str) -> list[str]:
    return [value.decode() for value in _values(records, name)]


def _attributes(records: pa.RecordBatch) -> list[dict[str, Attribute]]:
    """Returns the attributes of every record, the label among them."""
    attributes: list[dict[str, Attribute]] = [{} for _ in range(records.num_rows)]
    for name, column in zip(records.schema.names, records.columns, strict=True):
        attribute = features.LABEL if name == features.LABEL else features.attribute_name(name)
        if attribute is None:
            continue
        # A list of values or None for each record; of an empty list nothing is known.
        for row, values in enumerate(column.to_pylist()):
            if values:
                value = values[0]
                attributes[row][attribute] = value.decode() if isinstance(value, bytes) else value
    return attributes
