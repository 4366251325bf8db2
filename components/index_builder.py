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
from tfx.dsl.component.experimental.annotations import BeamComponentParameter, InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component

from components.artifact_files import fetched, stored, stored_folder
from components.artifacts import BaseRelease, Embeddings, VectorIndex
from components.duplicates.find import FindDuplicates
from components.duplicates.flow import GroupingOptions
from components.duplicates.marks import Mark, ShardMarks
from components.duplicates.options import DuplicateOptions
from components.duplicates.steps import read_duplicates
from components.embedding import parts as embedding_parts
from components.index_shards import parts_of_shard, read_shard_vectors, shard_counts
from components.reindex.unchanged import passed_on
from components.tuning.options import TuningOptions
from components.tuning.plan import plan
from components.tuning.steps import Calibrate, FindParameters, TuningTask
from serving.index import PARAMETERS_FILE, IndexParameters, build_index, choose_parameters, parameters_json
from serving.release import layout
from serving.release.encoder_info import BINARY_FAMILIES
from serving.release.items import Item, ItemShard, write_items
from serving.release.manifest import Manifest
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

    def __post_init__(self) -> None:
        if self.shards < 1 or self.parts % self.shards:
            raise ValueError(f"shards must divide the {self.parts} parts of the embeddings, got {self.shards}.")


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

    def process(self, group: tuple[int, Iterable[Mark | None]], found: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """found: what FindParameters yields."""
        shard, options = group[0], self._options
        marks = ShardMarks(mark for mark in group[1] if mark is not None)
        output = open_store(options.output)
        started = time.monotonic()
        vectors = read_shard_vectors(open_store(options.embeddings), shard, options.shards)
        with stored(output, layout.embeddings_file(shard, options.shards)) as path, path.open("wb") as handle:
            np.save(handle, vectors, allow_pickle=False)
        with stored(output, layout.items_file(shard, options.shards)) as path:
            written = write_items(path, self._items(shard, marks))
        if written != len(vectors):
            raise RuntimeError(
                f"index shard {shard} must have as many items as embeddings, got {written}, {len(vectors)}."
            )
        with stored_folder(output, layout.index_folder(shard, options.shards)) as folder:
            building = time.monotonic()
            index = build_index(vectors, IndexParameters.from_dict(found["parameters"]))
            build_seconds = time.monotonic() - building
            index.save(folder)
        _log.info(
            "index shard %d of %d: %d items in %.1f s", shard, options.shards, written, time.monotonic() - started
        )
        yield {
            "shard": shard,
            "index": layout.index_folder(shard, options.shards),
            "embeddings": layout.embeddings_file(shard, options.shards),
            "items": layout.items_file(shard, options.shards),
            "count": written,
            "build_seconds": build_seconds,
        }

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

    def process(self, entries: list[dict[str, Any]], tuned: dict[str, Any]) -> None:
        """tuned: what Calibrate yields."""
        output = open_store(self._options.output)
        parameters = IndexParameters.from_dict(tuned["parameters"])
        for entry in entries:
            # How a shard is searched was found after it was built.
            found = parameters_json(parameters, entry["count"], self._dimension)
            output.write(f"{entry['index']}/{PARAMETERS_FILE}", found)
        shards = [
            {name: value for name, value in entry.items() if name not in ("shard", "build_seconds")}
            for entry in sorted(entries, key=lambda entry: entry["shard"])
        ]
        value = {
            "kind": parameters.kind,
            "metric": "cosine",
            "parameters": parameters.to_dict(),
            "tuning": tuned["tuning"],
            "count": sum(shard["count"] for shard in shards),
            "dimension": self._dimension,
            "encoder_digest": self._encoder["digest"],
            "shards": shards,
            "duplicates": read_duplicates(self._options.output),
        }
        output.write(INDEX, (json.dumps(value, indent=1, sort_keys=True) + "\n").encode())


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
    tuning: Parameter[str] = "",
    base: InputArtifact[BaseRelease] = None,
    code: Parameter[str] = "",
    beam_pipeline: BeamComponentParameter[beam.Pipeline] = None,
) -> None:
    """Writes the body of a release, by serving.release.layout, and index.json.

    shards: of the index; must divide the parts of the embeddings. parameters: a JSON object of fields of
    serving.index.IndexParameters that replace the ones chosen for the collection's size and the encoder's family.
    duplicates: a JSON object of fields of components.duplicates.options.DuplicateOptions: what counts as a
    near-duplicate.
    tuning: a JSON object of fields of components.tuning.options.TuningOptions: how parameters that aren't given are
    found. base: of a reindex: where it was tuned alike, its parameters are taken.
    code: the fingerprint of our code.
    """
    if passed_on(embeddings.uri, index.uri):
        return
    store = open_store(embeddings.uri)
    report = embedding_parts.read_report(store)
    if not sum(report.counts):
        raise ValueError(f"an index needs at least one item, the embeddings at {embeddings.uri} hold none.")
    # One choice for all shards: a stable hash makes them of nearly one size.
    counts = shard_counts(report.counts, shards)
    largest = max(counts)
    encoder = embedding_parts.read_encoder(store)
    tuned = TuningOptions.from_json(tuning)
    planned = plan(
        tuned,
        family_parameters(largest, report.dimension, encoder.get("info", {}).get("family", ""), parameters),
        _stated(parameters),
        largest=largest,
        dimension=report.dimension,
        encoder_digest=encoder["digest"],
        base=Manifest.from_json(open_store(base.uri).read(layout.MANIFEST)) if base else None,
    )
    options = BuildOptions(embeddings.uri, index.uri, len(report.counts), shards)
    task = TuningTask(embeddings.uri, index.uri, counts.index(largest), shards, largest, tuned, planned)
    grouping = GroupingOptions(
        embeddings.uri, index.uri, len(report.counts), shards, DuplicateOptions.from_json(duplicates)
    )
    with beam_pipeline as pipeline:
        inputs = [pipeline | "Shards" >> beam.Create([(shard, None) for shard in range(shards)])]
        if grouping.duplicates.enabled:
            inputs.append(pipeline | "FindDuplicates" >> FindDuplicates(grouping))
        found = beam.pvalue.AsSingleton(
            pipeline | "Tune" >> beam.Create([None]) | "FindParameters" >> beam.ParDo(FindParameters(task))
        )
        entries = (
            inputs
            | "FlattenInputs" >> beam.Flatten()
            | "GroupByShard" >> beam.GroupByKey()
            | "BuildShard" >> beam.ParDo(BuildShard(options), found)
            | "ListShards" >> beam.combiners.ToList()
        )
        calibrated = beam.pvalue.AsSingleton(entries | "Calibrate" >> beam.ParDo(Calibrate(task), found))
        _ = entries | "WriteIndex" >> beam.ParDo(WriteIndex(options, encoder, report.dimension), calibrated)
