"""Ingests images: a folder, archive or manifest becomes tf.Examples of canonical images, sharded and split."""

import dataclasses
import hashlib
import json
import logging
import shutil
import time
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

import apache_beam as beam
from tfx import types
from tfx.components.example_gen import component as example_gen
from tfx.components.example_gen import driver, input_processor, utils, write_split
from tfx.components.util import examples_utils
from tfx.dsl.components.base import base_beam_component, base_beam_executor, executor_spec
from tfx.proto import example_gen_pb2
from tfx.types import artifact_utils, component_spec, standard_artifacts, standard_component_specs

from components import artifacts
from components.artifact_files import fetched, stored
from components.ingest.folders import file_version
from components.ingest.item_files import hold_out_all
from components.ingest.listing import Entry, ListingError, Source
from components.ingest.report import (
    REPORT,
    build_report,
    check,
    check_removed,
    is_unchanged,
    merge,
    merge_skipped,
    result_from_json,
    result_to_json,
)
from components.ingest.set_digest import SetDigest
from components.ingest.shards import (
    SPLITS,
    IngestOptions,
    add_to_listing,
    list_by_shard,
    list_entries,
    shard_file,
    write_shard,
)
from components.ingest.updates import (
    current_manifest,
    fold_updates,
    list_updates,
    no_updates,
    updates_digest,
)
from components.reindex.base import Base, read_base
from components.reindex.unchanged import mark_unchanged
from serving.images import DEFAULT_LIMITS, ImageLimits
from serving.release.reader import read_manifest
from serving.storage import open_store

# What the component's spec and its artifacts name, beyond TFX's own keys.
IMAGES = "images"
OPTIONS = "options"
CODE = "code"
LAST_SPAN = "last_span"
REPORT_KEY = "report"
UPDATES_KEY = "updates"
SERVING_ROOT = "serving_root"
BASE_KEY = "base"
REINDEX = "reindex"
MAX_REMOVED_SHARE = "max_removed_share"
REBUILD = "rebuild"
REUSED_SPLIT = "reused_split"
DATA_FINGERPRINT = "data_fingerprint"

_LOG = logging.getLogger(__name__)

_NO_UPDATES = SetDigest().hexdigest()


def listing_digest(source: Source) -> str:
    """Returns the sha256, in hex, of what may become items: uri, size and version of every file or manifest row.

    What only claims no image (hidden files, other extensions) has no part in it. Never raises ListingError: where there
    is nothing to list the executor says so, in an execution that is marked failed.
    """
    digest = SetDigest()
    try:
        if source.kind != "folder":
            digest.add(source.uri, *file_version(source.uri))
        if source.kind != "archive":
            for entry in list_entries(source):
                add_to_listing(digest, entry)
    except (ListingError, OSError) as error:
        return hashlib.sha256(f"not listed: {error}".encode("utf-8", "replace")).hexdigest()
    return digest.hexdigest()


def _list(source: Source, updates: str, shards: int) -> Iterator[tuple[int, list[tuple[Any, ...]]]]:
    # Every shard is written, also one that no item falls into.
    yield from ((shard, []) for shard in range(shards))
    yield from list_updates(updates, shards)
    yield from list_by_shard(source, shards)


class _WriteShard(beam.DoFn):
    def __init__(
        self,
        source: Source,
        options: IngestOptions,
        examples: str,
        report: str,
        base: Base | None = None,
        serving_root: str = "",
    ) -> None:
        self._source, self._options, self._base, self._serving_root = source, options, base, serving_root
        self._examples, self._report = examples, report

    def process(self, element: tuple[int, Iterable[list[tuple[Any, ...]]]]) -> None:
        shard, pieces = element
        found = (Entry(*entry) for entries in pieces for entry in entries)
        result = write_shard(
            *(self._source, self._options, shard, found, self._examples, self._report, self._base, self._serving_root)
        )
        open_store(self._report).write(_result_file(shard), result_to_json(result).encode())


@beam.ptransform_fn
def IngestCollection(
    root: Any,
    source: Source,
    options: IngestOptions,
    examples: str,
    report: str,
    base: Base | None = None,
    serving_root: str = "",
    updates: str = "",
) -> Any:
    """Lists a collection and writes each shard's examples, its list of what was skipped and its result.

    Only names pass through Beam: the worker that writes a shard reads its images, one at a time.
    """
    return (
        root
        | "Source" >> beam.Create([source])
        | "List" >> beam.FlatMap(_list, updates, options.shards)
        | beam.GroupByKey()
        | "WriteShard" >> beam.ParDo(_WriteShard(source, options, examples, report, base, serving_root))
    )


def ingest(
    source: Source,
    options: IngestOptions,
    examples: str,
    report: str,
    pipeline: beam.Pipeline,
    *,
    serving_root: str = "",
    updates: str = "",
    base: Base | None = None,
    max_removed_share: float = 1.0,
    rebuild: bool = False,
) -> dict[str, Any]:
    """Runs IngestCollection in `pipeline`, writes `report.json` and `skipped.jsonl`; returns the report.

    serving_root, updates: whose upserts and deletes are put over the images, and the Updates artifact that holds them.
    base: the release of a reindex. max_removed_share: of its items, in [0, 1]: where more are gone it is refused.
    rebuild: whether the steps that follow do their work also where nothing has changed.

    Raises ListingError or IngestError where the collection can't be used; the report is there nevertheless.
    """
    began = time.monotonic()
    # Told apart from what Beam makes of an error in a worker.
    next(iter(list_entries(source)), None)
    with pipeline:
        _ = pipeline | IngestCollection(source, options, examples, report, base, serving_root, updates)
    store = open_store(report)
    total = merge(result_from_json(store.read(_result_file(shard)).decode()) for shard in range(options.shards))
    store.delete("results")
    listed = merge_skipped(store, options.shards)
    value = build_report(
        source,
        options,
        total,
        listed=listed,
        # What is kept of a base has no bytes to copy, and queries are found without a split.
        reused_split=None if base else _reuse_split(examples, total.items, options.shards),
        base=base,
    )
    store.write(REPORT, (json.dumps(value, indent=1, sort_keys=True) + "\n").encode())
    check(source, options, total, listed)
    _LOG.info("ingested %d items from %s in %.2f s", value["items"], source.uri, time.monotonic() - began)
    if base is not None:
        check_removed(source, value["reindex"], max_removed_share)
        if is_unchanged(value["reindex"]) and not rebuild:
            mark_unchanged(examples, base.release_id)
    return value


def _result_file(shard: int) -> str:
    return f"results/{shard:05d}.json"


def _reuse_split(examples: str, items: dict[str, int], shards: int) -> str | None:
    """Copies one split to the other where that has no items; returns the name of the copy."""
    store = open_store(examples)
    for split, other in (SPLITS, SPLITS[::-1]):
        if items[other] and not items[split]:
            for shard in range(shards):
                name = shard_file(shard, shards)
                with fetched(store, f"Split-{other}/{name}") as path, stored(store, f"Split-{split}/{name}") as copy:
                    shutil.copyfile(path, copy)
                if split == "eval":
                    hold_out_all(store, shard, shards)
            return split
    return None


class Executor(base_beam_executor.BaseBeamExecutor):
    """Runs `ingest` and says on the examples what TFX's components look for."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Writes `examples` and `report`; raises ListingError or IngestError where the collection can't be used."""
        self._log_startup(input_dict, output_dict, exec_properties)
        options = _options(exec_properties)
        source = options.source(exec_properties[IMAGES])
        examples = artifact_utils.get_single_instance(output_dict[standard_component_specs.EXAMPLES_KEY])
        report = artifact_utils.get_single_instance(output_dict[REPORT_KEY])
        updates = artifact_utils.get_single_instance(output_dict[UPDATES_KEY])
        given = artifact_utils.get_single_instance(input_dict[BASE_KEY]) if input_dict.get(BASE_KEY) else None
        base = None if given is None else read_base(given.uri)
        differ = _fold(exec_properties[SERVING_ROOT], updates.uri, base)
        value = ingest(
            source,
            options,
            examples.uri,
            report.uri,
            self._make_beam_pipeline(),
            serving_root=exec_properties[SERVING_ROOT],
            updates=updates.uri,
            base=base,
            max_removed_share=exec_properties[MAX_REMOVED_SHARE],
            # A release that says more of the updates is worth having: the journal can then be cleared.
            rebuild=differ or bool(exec_properties[REBUILD]),
        )
        examples.split_names = artifact_utils.encode_split_names(list(SPLITS))
        examples_utils.set_payload_format(examples, example_gen_pb2.FORMAT_TF_EXAMPLE)
        examples_utils.set_file_format(examples, write_split.to_file_format_str(example_gen_pb2.FORMAT_TFRECORDS_GZIP))
        examples.set_string_custom_property(DATA_FINGERPRINT, value["data_fingerprint"])
        # A copy of the other split holds no items of its own: whoever reads every item leaves it out.
        examples.set_string_custom_property(REUSED_SPLIT, value["reused_split"] or "")
        if value["spans"]:
            examples.set_int_custom_property(utils.SPAN_PROPERTY_NAME, value["spans"][-1])


def _options(exec_properties: dict[str, Any]) -> IngestOptions:
    # A parameter of its own: a run on Kubeflow can be told another one.
    last_span = exec_properties[LAST_SPAN]
    options = IngestOptions.from_json(exec_properties[OPTIONS])
    return dataclasses.replace(options, last_span=None if last_span < 0 else last_span)


def _fold(serving_root: str, target: str, base: Base | None) -> bool:
    """Writes the Updates artifact; returns whether it holds other changes than the release that it builds on."""
    if not serving_root:
        no_updates(target)
        return False
    store = open_store(serving_root)
    manifest = current_manifest(store) if base is None else read_manifest(store, base.release_id)
    return fold_updates(serving_root, target, manifest)


class _ListingProcessor(input_processor.FileBasedInputProcessor):
    """Fingerprints a collection by its listing."""

    def __init__(self, source: Source, reindex: bool, serving_root: str, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._source, self._reindex, self._serving_root = source, reindex, serving_root

    def resolve_span_and_version(self) -> tuple[int, int | None]:
        return 0, None

    def get_input_fingerprint(self, span: int, version: int | None) -> str:
        if self._reindex:
            # Every reindex has a base of its own, so no cache is ever asked: the executor lists, once.
            return "listing:"
        listing = f"listing:{listing_digest(self._source)}"
        updates = updates_digest(self._serving_root) if self._serving_root else _NO_UPDATES
        return listing if updates == _NO_UPDATES else f"{listing} updates:{updates}"


class Driver(driver.FileBasedDriver):
    """TFX's driver, with a fingerprint that also sees a rename and two changes within one second.

    TFX's own adds up sizes and whole seconds. It is the one that Kubeflow runs: nothing can replace it there.
    """

    def resolve_exec_properties(
        self, exec_properties: dict[str, Any], pipeline_info: Any, component_info: Any
    ) -> dict[str, Any]:
        self._source = _options(exec_properties).source(exec_properties[IMAGES])
        self._reindex = bool(exec_properties[REINDEX])
        self._serving_root = str(exec_properties[SERVING_ROOT])
        return super().resolve_exec_properties(exec_properties, pipeline_info, component_info)

    def get_input_processor(
        self, splits: Any, range_config: Any = None, input_base_uri: str | None = None
    ) -> input_processor.InputProcessor:
        return _ListingProcessor(
            *(self._source, self._reindex, self._serving_root), input_base_uri, splits, range_config
        )


class ImageExampleGenSpec(component_spec.ComponentSpec):
    """TFX's spec of a file based ExampleGen, with our parameters and the report."""

    PARAMETERS: ClassVar[dict[str, Any]] = {
        **standard_component_specs.FileBasedExampleGenSpec.PARAMETERS,
        IMAGES: component_spec.ExecutionParameter(type=str),
        OPTIONS: component_spec.ExecutionParameter(type=str),
        LAST_SPAN: component_spec.ExecutionParameter(type=int),
        CODE: component_spec.ExecutionParameter(type=str),
        SERVING_ROOT: component_spec.ExecutionParameter(type=str),
        REINDEX: component_spec.ExecutionParameter(type=int),
        MAX_REMOVED_SHARE: component_spec.ExecutionParameter(type=float),
        REBUILD: component_spec.ExecutionParameter(type=int),
    }
    INPUTS: ClassVar[dict[str, Any]] = {
        BASE_KEY: component_spec.ChannelParameter(type=artifacts.BaseRelease, optional=True),
    }
    OUTPUTS: ClassVar[dict[str, Any]] = {
        **standard_component_specs.FileBasedExampleGenSpec.OUTPUTS,
        REPORT_KEY: component_spec.ChannelParameter(type=artifacts.IngestReport),
        UPDATES_KEY: component_spec.ChannelParameter(type=artifacts.Updates),
    }


class ImageExampleGen(example_gen.FileBasedExampleGen):
    """Ingests the images at `images`. Outputs: `examples` (splits `train` and `eval`), `report` and `updates`.

    A FileBasedExampleGen, because on Kubeflow only that gets a driver, which looks at the files before the cache.

    Args:
        images: a folder, searched to a depth of 7 folders; a zip or tar; or a manifest (CSV or JSONL, see
            components/ingest/image_manifest.py). Local, or any URL that fsspec opens. On Kubeflow the images that a
            manifest names are seen to change if they lie below its folder; for others write the manifest anew.
        code: the fingerprint of our code (components/fingerprint.py).
        serving_root: whose upserts and deletes, of the current release and of the journal, are put over the images:
            what was deleted is left out until it is upserted again, what was upserted is in, whatever the folder holds.
            Empty for none. A cache that only TFX's stock driver guards (on Kubeflow) doesn't see the journal.
        base: of a reindex, from ReleaseEncoder: what its release holds unchanged is not read again, and stands in the
            examples by its place there.
        max_removed_share: of the base's items, in [0, 1]; where more are gone the run is refused.
        rebuild: whether a reindex builds an index also where nothing has changed.
        limits, shards, eval_percent, label_from, max_skipped_share, span_pattern, last_span: see IngestOptions.
    """

    SPEC_CLASS = ImageExampleGenSpec
    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(Executor)
    DRIVER_CLASS = Driver

    def __init__(
        self,
        images: str,
        *,
        code: str,
        serving_root: str = "",
        base: types.BaseChannel | None = None,
        max_removed_share: float = 0.5,
        rebuild: bool = False,
        limits: ImageLimits = DEFAULT_LIMITS,
        shards: int = 8,
        eval_percent: int = 10,
        label_from: str | None = None,
        max_skipped_share: float = 0.01,
        span_pattern: str | None = None,
        last_span: int | None = None,
    ) -> None:
        options = IngestOptions(limits, shards, eval_percent, label_from, max_skipped_share, span_pattern)
        source = dataclasses.replace(options, last_span=last_span).source(images)
        patterns = enumerate(source.patterns, 1)
        splits = [example_gen_pb2.Input.Split(name=f"level-{level}", pattern=pattern) for level, pattern in patterns]
        output = example_gen_pb2.SplitConfig(splits=[example_gen_pb2.SplitConfig.Split(name=split) for split in SPLITS])
        spec = ImageExampleGenSpec(
            input_base=source.folder,
            input_config=example_gen_pb2.Input(splits=splits),
            output_config=example_gen_pb2.Output(split_config=output),
            output_data_format=example_gen_pb2.FORMAT_TF_EXAMPLE,
            output_file_format=example_gen_pb2.FORMAT_TFRECORDS_GZIP,
            images=source.uri,
            options=options.to_json(),
            last_span=-1 if last_span is None else last_span,
            code=code,
            serving_root=serving_root,
            reindex=int(base is not None),
            max_removed_share=max_removed_share,
            rebuild=int(rebuild),
            **({} if base is None else {BASE_KEY: base}),
            examples=types.Channel(type=standard_artifacts.Examples),
            report=types.Channel(type=artifacts.IngestReport),
            updates=types.Channel(type=artifacts.Updates),
        )
        # FileBasedExampleGen's own constructor would make a spec without the report.
        base_beam_component.BaseBeamComponent.__init__(self, spec=spec)
