"""Builds the body of a release from embeddings: index shards, each in a worker of its own and bounded by its size."""

import contextlib
import dataclasses
import json
import logging
import time
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import numpy.typing as npt
from tfx.dsl.component.experimental.annotations import BeamComponentParameter, InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component

from components.artifact_files import fetched, stored, stored_folder
from components.artifacts import Embeddings, VectorIndex
from components.duplicates.find import FindDuplicates
from components.duplicates.flow import GroupingOptions
from components.duplicates.marks import Mark, ShardMarks
from components.duplicates.options import DuplicateOptions
from components.duplicates.steps import read_duplicates
from components.embedding import parts as embedding_parts
from components.reindex.unchanged import passed_on
from serving.index import IndexParameters, build_index, choose_parameters
from serving.release import layout
from serving.release.encoder_info import BINARY_FAMILIES
from serving.release.items import Item, ItemShard, write_items
from serving.storage import open_store

_log = logging.getLogger(__name__)

INDEX = "index.json"


@dataclasses.dataclass(frozen=True)
class BuildOptions:
    """What every shard is built with. embeddings, output: the artifacts. parts: of the embeddings. shards: S."""

    embeddings: str
    output: str
    parts: int
    shards: int
    parameters: IndexParameters

    def __post_init__(self) -> None:
        if self.shards < 1 or self.parts % self.shards:
            raise ValueError(f"shards must divide the {self.parts} parts of the embeddings, got {self.shards}.")


def parts_of_shard(shard: int, shards: int, parts: int) -> range:
    """Returns the parts whose rows, one part after the other, are the rows of index shard `shard`."""
    return range(shard, parts, shards)


def shard_counts(counts: tuple[int, ...], shards: int) -> list[int]:
    """Returns how many items each index shard holds, given the items of each part."""
    return [sum(counts[j] for j in parts_of_shard(shard, shards, len(counts))) for shard in range(shards)]


def override_parameters(chosen: IndexParameters, overrides: str) -> IndexParameters:
    """Returns `chosen` with the fields in the JSON object `overrides` (or nothing) put in their place."""
    return IndexParameters.from_dict({**chosen.to_dict(), **_stated(overrides)})


def family_parameters(count: int, dimension: int, family: str, overrides: str) -> IndexParameters:
    """Returns the parameters for `count` embeddings of an encoder of some family, `overrides` put in their place."""
    kind = _stated(overrides).get("kind", "hamming" if family in BINARY_FAMILIES else "")
    return override_parameters(choose_parameters(count, dimension, codes=kind == "hamming"), overrides)


def _stated(overrides: str) -> dict[str, Any]:
    values = json.loads(overrides or "{}")
    if not isinstance(values, dict):
        raise ValueError(f"index parameters must be a JSON object, got {overrides!r}.")
    return values


class BuildShard(beam.DoFn):
    """Builds index shard s from the parts j with j % S == s; yields its entry for index.json."""

    def __init__(self, options: BuildOptions) -> None:
        self._options = options

    def process(self, group: tuple[int, Iterable[Mark | None]]) -> Iterator[dict[str, Any]]:
        shard, options = group[0], self._options
        marks = ShardMarks(mark for mark in group[1] if mark is not None)
        output = open_store(options.output)
        started = time.monotonic()
        vectors = self._vectors(shard)
        with stored(output, layout.embeddings_file(shard, options.shards)) as path, path.open("wb") as handle:
            np.save(handle, vectors, allow_pickle=False)
        with stored(output, layout.items_file(shard, options.shards)) as path:
            written = write_items(path, self._items(shard, marks))
        if written != len(vectors):
            raise RuntimeError(
                f"index shard {shard} must have as many items as embeddings, got {written}, {len(vectors)}."
            )
        with stored_folder(output, layout.index_folder(shard, options.shards)) as folder:
            build_index(vectors, options.parameters).save(folder)
        _log.info(
            "index shard %d of %d: %d items in %.1f s", shard, options.shards, written, time.monotonic() - started
        )
        yield {
            "shard": shard,
            "index": layout.index_folder(shard, options.shards),
            "embeddings": layout.embeddings_file(shard, options.shards),
            "items": layout.items_file(shard, options.shards),
            "count": written,
        }

    def _vectors(self, shard: int) -> npt.NDArray[np.float32]:
        options = self._options
        store = open_store(options.embeddings)
        report = embedding_parts.read_report(store)
        parts = parts_of_shard(shard, options.shards, options.parts)
        return np.concatenate([embedding_parts.read_vectors(store, report, part) for part in parts])

    def _items(self, shard: int, marks: ShardMarks) -> Iterator[Item]:
        options = self._options
        store = open_store(options.embeddings)
        for part in parts_of_shard(shard, options.shards, options.parts):
            name = embedding_parts.items_file(part, options.parts)
            with fetched(store, name) as path, contextlib.closing(ItemShard(path)) as items:
                yield from marks.marked(part, items)


class WriteIndex(beam.DoFn):
    """Writes index.json: the last thing of a VectorIndex artifact."""

    def __init__(self, options: BuildOptions, encoder: dict[str, Any], dimension: int) -> None:
        self._options = options
        self._encoder = encoder
        self._dimension = dimension

    def process(self, entries: list[dict[str, Any]]) -> None:
        shards = [
            {name: value for name, value in entry.items() if name != "shard"}
            for entry in sorted(entries, key=lambda entry: entry["shard"])
        ]
        value = {
            "kind": self._options.parameters.kind,
            "metric": "cosine",
            "parameters": self._options.parameters.to_dict(),
            "count": sum(shard["count"] for shard in shards),
            "dimension": self._dimension,
            "encoder_digest": self._encoder["digest"],
            "shards": shards,
            "duplicates": read_duplicates(self._options.output),
        }
        open_store(self._options.output).write(INDEX, (json.dumps(value, indent=1, sort_keys=True) + "\n").encode())


def read_index(uri: str) -> dict[str, Any]:
    """Returns the index.json of the VectorIndex artifact at `uri`."""
    return dict(json.loads(open_store(uri).read(INDEX)))


@component(use_beam=True)
def IndexBuilder(
    embeddings: InputArtifact[Embeddings],
    index: OutputArtifact[VectorIndex],
    shards: Parameter[int] = 1,
    parameters: Parameter[str] = "",
    duplicates: Parameter[str] = "",
    code: Parameter[str] = "",
    beam_pipeline: BeamComponentParameter[beam.Pipeline] = None,
) -> None:
    """Writes the body of a release, by serving.release.layout, and index.json.

    shards: of the index; must divide the parts of the embeddings. parameters: a JSON object of fields of
    serving.index.IndexParameters that replace the ones chosen for the collection's size and the encoder's family.
    duplicates: a JSON object of fields of components.duplicates.options.DuplicateOptions: what counts as a
    near-duplicate.
    code: the fingerprint of our code.
    """
    if passed_on(embeddings.uri, index.uri):
        return
    store = open_store(embeddings.uri)
    report = embedding_parts.read_report(store)
    if not sum(report.counts):
        raise ValueError(f"an index needs at least one item, the embeddings at {embeddings.uri} hold none.")
    # One choice for all shards: a stable hash makes them of nearly one size.
    largest = max(shard_counts(report.counts, shards))
    encoder = embedding_parts.read_encoder(store)
    chosen = family_parameters(largest, report.dimension, encoder.get("info", {}).get("family", ""), parameters)
    options = BuildOptions(embeddings.uri, index.uri, len(report.counts), shards, chosen)
    grouping = GroupingOptions(
        embeddings.uri, index.uri, len(report.counts), shards, DuplicateOptions.from_json(duplicates)
    )
    with beam_pipeline as pipeline:
        inputs = [pipeline | "Shards" >> beam.Create([(shard, None) for shard in range(shards)])]
        if grouping.duplicates.enabled:
            inputs.append(pipeline | "FindDuplicates" >> FindDuplicates(grouping))
        _ = (
            inputs
            | "FlattenInputs" >> beam.Flatten()
            | "GroupByShard" >> beam.GroupByKey()
            | "BuildShard" >> beam.ParDo(BuildShard(options))
            | "ListShards" >> beam.combiners.ToList()
            | "WriteIndex" >> beam.ParDo(WriteIndex(options, encoder, report.dimension))
        )
