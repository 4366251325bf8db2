"""The last steps: new embeddings into the cache, each part's vectors where its items are, and the report."""

import collections
import concurrent.futures
import contextlib
import json
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import numpy.typing as npt

from components.artifact_files import fetched, stored
from components.embedding import parts as embedding_parts
from components.embedding.flow import ContentCounts, EmbedOptions, PartItems, PartReport, RowFailures, open_cache
from components.embedding.parts import EmbeddingsReport
from components.reindex.base import BaseItems
from serving.release.cached_embeddings import Keys, Vectors
from serving.release.items import ItemShard, write_items
from serving.storage import open_store

# Each has to be synced, which is waiting; each holds a part's worth of new embeddings.
_PAIRS_AT_ONCE = 4


class AddToCache(beam.DoFn):
    """Writes the new embeddings of each prefix into the cache, a pair of files; several wait for the disk at once."""

    def __init__(self, options: EmbedOptions) -> None:
        self._options = options

    def start_bundle(self) -> None:
        """Opens what the bundle's pairs are written by."""
        self._writers = concurrent.futures.ThreadPoolExecutor(_PAIRS_AT_ONCE)
        self._pairs: collections.deque[concurrent.futures.Future[None]] = collections.deque()

    def process(self, group: tuple[str, Iterable[tuple[Keys, Vectors]]]) -> None:
        prefix, pieces = group[0], list(group[1])
        cache = open_cache(self._options)
        if cache is None:
            return
        # No more are in memory.
        while len(self._pairs) >= _PAIRS_AT_ONCE:
            self._pairs.popleft().result()
        keys, vectors = np.concatenate([keys for keys, _ in pieces]), np.concatenate([v for _, v in pieces])
        self._pairs.append(self._writers.submit(cache.add, prefix, keys, vectors))

    def finish_bundle(self) -> None:
        """Returns when every pair is written; raises what a write did."""
        with self._writers:
            while self._pairs:
                self._pairs.popleft().result()


class WritePart(beam.DoFn):
    """Puts a part's vectors in the order of its items and writes them; yields the PartReport."""

    def __init__(self, options: EmbedOptions, parts: int) -> None:
        self._options = options
        self._parts = parts

    def process(self, group: tuple[int, dict[str, Iterable[Any]]]) -> Iterator[PartReport]:
        part, inputs = group
        # A PartItems is yielded once per part; a repeated one would say the same.
        items: PartItems = next(iter(inputs["items"]))
        vectors = np.zeros((items.count, self._options.dimension), np.float32)
        written = np.zeros(items.count, bool)
        kept = len(items.kept)
        if kept and self._options.base:
            with BaseItems(self._options.base) as base:
                vectors[:kept] = base.vectors(items.kept, self._options.dimension)
            written[:kept] = True
        reasons: dict[int, str] = {}
        for piece in inputs["vectors"]:
            if isinstance(piece, RowFailures):
                reasons.update({kept + row: reason for row, reason in piece.reasons.items()})
            else:
                vectors[kept + piece.rows] = piece.vectors
                written[kept + piece.rows] = True
        written[list(reasons)] = True
        if not written.all():
            raise RuntimeError(f"part {part} must have {items.count} embeddings, {int((~written).sum())} are missing.")
        keep = np.ones(items.count, bool)
        keep[list(reasons)] = False
        failed = self._drop(part, keep, reasons) if reasons else ()
        store = open_store(self._options.output)
        held_out = items.held_out[keep]
        with stored(store, embedding_parts.vectors_file(part, self._parts)) as path, path.open("wb") as handle:
            np.save(handle, vectors[keep], allow_pickle=False)
        with stored(store, embedding_parts.held_out_file(part, self._parts)) as path, path.open("wb") as handle:
            np.save(handle, held_out, allow_pickle=False)
        yield PartReport(part, int(keep.sum()), int(held_out.sum()), items.count, kept, failed)

    def _drop(self, part: int, keep: npt.NDArray[np.bool_], reasons: dict[int, str]) -> tuple[dict[str, str], ...]:
        """Writes the part's items again without the failed rows; returns who they were."""
        store = open_store(self._options.output)
        name, list_name = (f(part, self._parts) for f in (embedding_parts.items_file, embedding_parts.failed_file))
        rows = sorted(reasons)
        with fetched(store, name) as path, contextlib.closing(ItemShard(path)) as shard:
            if shard.count != len(keep):
                # This very bundle ran before and is retried: the rows are gone, the list of them was written first.
                return tuple(json.loads(store.read(list_name)))
            refused = zip(rows, shard.by_row(rows), strict=True)
            failed = [{"item_id": item.item_id, "reason": reasons[row]} for row, item in refused]
            store.write(list_name, json.dumps(failed).encode())
            with stored(store, name) as new:
                write_items(new, (item for item, kept in zip(shard, keep, strict=True) if kept))
        return tuple(failed)


class WriteReport(beam.DoFn):
    """Writes report.json: the last thing of an Embeddings artifact."""

    def __init__(self, options: EmbedOptions, parts: int) -> None:
        self._options = options
        self._parts = parts

    def process(self, group: tuple[int, Iterable[PartReport | ContentCounts]]) -> Iterator[EmbeddingsReport]:
        by_part: dict[int, PartReport] = {}
        counts: list[ContentCounts] = []
        for told in group[1]:
            if isinstance(told, PartReport):
                by_part[told.part] = told
            else:
                counts.append(told)
        ordered = [by_part[part] for part in range(self._parts)]
        report = EmbeddingsReport(
            counts=tuple(report.count for report in ordered),
            held_out=sum(report.held_out for report in ordered),
            dimension=self._options.dimension,
            items=sum(report.items for report in ordered),
            contents=sum(count.encoded + count.cached for count in counts),
            encoded=sum(count.encoded for count in counts),
            cached=sum(count.cached for count in counts),
            failed=tuple(failure for report in ordered for failure in report.failed),
            kept=sum(report.kept for report in ordered),
        )
        open_store(self._options.output).write(embedding_parts.REPORT, report.to_json())
        yield report
