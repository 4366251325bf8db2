"""A serving root with a release of a folder of images, made without training, and reindexes of it in this process."""

import dataclasses
import itertools
import json
import os
import pathlib

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from tfx.types import standard_artifacts
from tfx.utils import path_utils

from components.artifacts import BaseRelease, Embeddings, IndexEvaluation, IngestReport, PublishedRelease, VectorIndex
from components.embedder import Embedder
from components.image_example_gen import ingest
from components.index_builder import IndexBuilder
from components.index_evaluator import IndexEvaluator
from components.ingest.shards import IngestOptions
from components.ingest.updates import fold_updates
from components.publisher import Publisher, data_lineage, publish_artifacts
from components.reindex.base import read_base
from components.release_encoder import ReleaseEncoder
from pipeline.beam_options import DIRECT_ARGS
from serving.release.current import read_current
from serving.release.items import Item
from serving.release.manifest import Manifest
from serving.release.reader import open_release, read_manifest
from serving.storage import open_store
from tests.components.tiny import Encoder, make_encoder, png


def beam_pipeline() -> beam.Pipeline:
    return beam.Pipeline(options=PipelineOptions(list(DIRECT_ARGS)))


@dataclasses.dataclass(frozen=True)
class Reindexed:
    """What a reindex did. encoded: how many images the encoder was really asked for. unchanged: as Publisher says."""

    report: dict
    encoded: int
    embedded: dict
    release_id: str
    unchanged: bool
    release: PublishedRelease


class Root:
    """A folder of images, an encoder and a serving root."""

    def __init__(self, folder: pathlib.Path, seed: int = 0) -> None:
        self.folder = folder
        self.images = folder / "images"
        self.images.mkdir(parents=True)
        self.source = str(self.images)
        self.serving_root = folder / "serving"
        self.store = open_store(self.serving_root)
        self.encoder = make_encoder(folder / "encoder", seed)
        self._runs = itertools.count()

    def write(self, name: str, seed: int) -> None:
        """Writes an image, of which no other seed gives the same."""
        target = self.images / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(png(seed))

    def spoil(self) -> None:
        """Makes every image useless to whoever opens it, and leaves it unchanged to whoever lists it."""
        for file in self.images.rglob("*.png"):
            stat = file.stat()
            file.write_bytes(b"\0" * stat.st_size)
            os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))

    def publish(self, shards: int = 2, encoder: Encoder | None = None, **options) -> str:
        """Publishes the images as a training run would; returns the release's id."""
        encoder = encoder or self.encoder
        artifacts = self._artifacts("published")
        ingested = IngestOptions(shards=shards, **options)
        examples = artifacts(standard_artifacts.Examples)
        report, updates = str(artifacts.folder / "report"), str(artifacts.folder / "updates")
        current = read_current(self.store)
        fold_updates(str(self.serving_root), updates, None if current is None else read_manifest(self.store, current))
        ingest(
            ingested.source(self.source),
            ingested,
            examples.uri,
            report,
            beam_pipeline(),
            serving_root=str(self.serving_root),
            updates=updates,
        )
        embeddings, index, evaluation = map(artifacts, (Embeddings, VectorIndex, IndexEvaluation))
        Embedder.test_call(
            examples=examples,
            infra_blessing=encoder.blessing,
            embeddings=embeddings,
            serving_root=str(self.serving_root),
            beam_pipeline=beam_pipeline(),
        )
        IndexBuilder.test_call(embeddings=embeddings, index=index, beam_pipeline=beam_pipeline())
        IndexEvaluator.test_call(
            index=index, embeddings=embeddings, evaluation=evaluation, beam_pipeline=beam_pipeline()
        )
        published = publish_artifacts(
            encoder=path_utils.stamped_model_path(encoder.blessing.uri),
            index=index.uri,
            evaluation=evaluation.uri,
            serving_root=str(self.serving_root),
            model_name="encoder",
            lineage=data_lineage(report),
            holder="test",
            updates=updates,
        )
        encoder.calls()
        return published.release_id

    def reindex(
        self,
        shards: int = 2,
        version: int = 0,
        max_removed_share: float = 0.5,
        index_shards: int = 1,
        rebuild: bool = False,
        meanwhile=lambda: None,
        lease: int = 0,
        **options,
    ) -> Reindexed:
        """Runs the steps of the reindex pipeline. meanwhile: is called before Publisher's turn."""
        artifacts = self._artifacts("reindex")
        blessing, base = artifacts(standard_artifacts.InfraBlessing), artifacts(BaseRelease)
        root = str(self.serving_root)
        ReleaseEncoder.test_call(infra_blessing=blessing, base=base, serving_root=root, encoder_version=version)
        examples, report = artifacts(standard_artifacts.Examples), artifacts(IngestReport)
        updates = artifacts(standard_artifacts.String)
        given = read_base(base.uri)
        ingested = IngestOptions(shards=shards, **options)
        differ = fold_updates(root, updates.uri, read_manifest(self.store, given.release_id))
        value = ingest(
            ingested.source(self.source),
            ingested,
            examples.uri,
            report.uri,
            beam_pipeline(),
            serving_root=root,
            updates=updates.uri,
            base=given,
            max_removed_share=max_removed_share,
            rebuild=differ or rebuild,
        )
        embeddings, index, evaluation = map(artifacts, (Embeddings, VectorIndex, IndexEvaluation))
        Embedder.test_call(
            examples=examples,
            infra_blessing=blessing,
            embeddings=embeddings,
            base=base,
            serving_root=root,
            beam_pipeline=beam_pipeline(),
        )
        IndexBuilder.test_call(embeddings=embeddings, index=index, shards=index_shards, beam_pipeline=beam_pipeline())
        IndexEvaluator.test_call(
            index=index, embeddings=embeddings, evaluation=evaluation, beam_pipeline=beam_pipeline()
        )
        meanwhile()
        release = artifacts(PublishedRelease)
        Publisher.test_call(
            infra_blessing=blessing,
            index=index,
            index_evaluation=evaluation,
            release=release,
            serving_root=root,
            base=base,
            report=report,
            updates=updates,
            reindex_lease=lease,
        )
        embedded = pathlib.Path(embeddings.uri, "report.json")
        return Reindexed(
            report=value,
            encoded=sum(self.encoder.calls()),
            embedded=json.loads(embedded.read_text()) if embedded.exists() else {},
            release_id=release.get_string_custom_property("release_id"),
            unchanged=bool(release.get_int_custom_property("unchanged")),
            release=release,
        )

    def manifest(self) -> Manifest:
        """Returns the manifest of the current release."""
        return read_manifest(self.store, read_current(self.store))

    def items(self) -> dict[str, Item]:
        """Returns the items of the current release by id, with thumbnails; every one is checked to find itself."""
        release = open_release(self.store, read_current(self.store))
        try:
            found = {}
            for shard in release.manifest.index.shards:
                path = self.serving_root / "releases" / release.manifest.release_id / shard.items
                with_thumbnails = _read_items(path)
                found.update({item.item_id: item for item in with_thumbnails})
            assert len(found) == release.count
            return found
        finally:
            release.close()

    def embedding(self, item_id: str):
        """Returns an item's embedding in the current release, float32 `[D]`."""
        release = open_release(self.store, read_current(self.store))
        try:
            return release.embedding(item_id)
        finally:
            release.close()

    def _artifacts(self, kind: str):
        return _Artifacts(self.folder / f"{kind}-{next(self._runs)}")


class _Artifacts:
    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder

    def __call__(self, kind):
        made = kind()
        target = self.folder / kind.TYPE_NAME
        target.mkdir(parents=True)
        made.uri = str(target)
        return made


def _read_items(path: pathlib.Path) -> list[Item]:
    from serving.release.items import ItemShard

    shard = ItemShard(path)
    try:
        return list(shard)
    finally:
        shard.close()
