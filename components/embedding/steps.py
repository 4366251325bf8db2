"""The steps that embed a collection, in their order; `components.embedder` connects them."""

import contextlib
import dataclasses
import itertools
import json
import logging
import pathlib
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import apache_beam as beam
import numpy as np
import numpy.typing as npt
from apache_beam.utils.shared import Shared

from components.artifact_files import fetched, stored
from components.embedding import parts as embedding_parts
from components.embedding.cache import prefix_digits
from components.embedding.example_shards import ExampleShard, Record, read_images, read_records
from components.embedding.flow import (
    ContentCounts,
    EmbedOptions,
    Misses,
    PartContents,
    PartItems,
    PartReport,
    RowFailures,
    open_cache,
    placed_vectors,
)
from components.embedding.parts import EmbeddingsReport
from components.embedding.saved_encoder import acquire_encoder
from components.ingest.notes import NO_KEPT, Kept, Note, read_kept, read_notes
from components.reindex.base import BaseItems
from serving.images import ImageError, thumbnail
from serving.release.items import Item, ItemShard, write_items
from serving.storage import open_store

_log = logging.getLogger(__name__)

_THUMBNAIL_SIDE = 96
# A canonical image this small is its own thumbnail.
_THUMBNAIL_BYTES = 2**14
_LOG_SECONDS = 20.0
# So few new embeddings of a part go into one pair of files with those of other such parts: each pair has to be synced.
_FEW_NEW = 256
_NO_NOTE = Note(-1, "")


def small_image(record: Record) -> bytes:
    """Returns the thumbnail of an item, made from its canonical image."""
    if max(record.width, record.height) <= _THUMBNAIL_SIDE and len(record.image) <= _THUMBNAIL_BYTES:
        # serving.images would say the same, after opening it.
        return record.image
    try:
        return thumbnail(record.image, _THUMBNAIL_SIDE)
    except ImageError as error:
        # Whether such an image is in the collection is for the encoder to say.
        _log.warning("no thumbnail of %s: %s", record.item_id, error)
        return b""


class ItemTable:
    """Collects one part's items in order: each id once, however many splits hold it.

    kept: how many rows come before them. notes: what is noted of the items, by id.
    """

    def __init__(self, kept: int, notes: Mapping[str, Note]) -> None:
        self._kept = kept
        self._notes = notes
        self.rows: dict[str, int] = {}
        self.held_out: list[bool] = []
        self.keys: list[bytes] = []
        self.records: list[int] = []
        self._records_read = 0

    def add(self, records: Iterable[Record]) -> Iterator[Item]:
        """Yields the items that are new, to be written in this order."""
        for record in records:
            number = self._records_read
            self._records_read += 1
            row = self.rows.get(record.item_id)
            if row is not None:
                # The eval split of a tiny collection is its train split once more: held out, but no other item.
                self.held_out[row] |= record.split == "eval"
                continue
            self.rows[record.item_id] = len(self.keys)
            self.held_out.append(record.split == "eval")
            self.keys.append(bytes.fromhex(record.sha256))
            self.records.append(number)
            yield record.item(small_image(record), self._notes.get(record.item_id, _NO_NOTE))

    def contents(self, part: int, digits: int) -> Iterator[tuple[str, PartContents]]:
        """Yields what the items contain, by the first digits of its sha256."""
        by_prefix: dict[str, list[int]] = {}
        for row, key in enumerate(self.keys):
            by_prefix.setdefault(key.hex()[:digits], []).append(row)
        for prefix, rows in by_prefix.items():
            yield (
                prefix,
                PartContents(
                    part=part,
                    keys=b"".join(self.keys[row] for row in rows),
                    rows=np.asarray(rows, np.int64) + self._kept,
                    records=np.asarray([self.records[row] for row in rows], np.int64),
                ),
            )


class ReadItems(beam.DoFn):
    """Writes the items of an example shard; yields its PartItems, and its PartContents by prefix (tag `contents`)."""

    def __init__(self, options: EmbedOptions, parts: int) -> None:
        self._options = options
        self._parts = parts
        self._digits = prefix_digits(parts)

    def process(self, shard: ExampleShard) -> Iterator[Any]:
        part, options = shard.shard, self._options
        store, examples = open_store(options.output), open_store(options.examples)
        kept = read_kept(examples, part, self._parts) if options.base else NO_KEPT
        table = ItemTable(len(kept.places), read_notes(examples, part, self._parts))
        new = table.add(read_records(shard))
        with stored(store, embedding_parts.items_file(part, self._parts)) as path:
            order = self._write_items(path, kept, new)
        held_out = np.concatenate([kept.held_out[order], np.asarray(table.held_out, bool)])
        _log.info("part %d of %d: %d items, %d of them kept", part, self._parts, len(held_out), len(kept.places))
        yield part, PartItems(part, len(held_out), held_out, kept.places[order])
        for contents in table.contents(part, self._digits):
            yield beam.pvalue.TaggedOutput("contents", contents)

    def _write_items(self, path: pathlib.Path, kept: Kept, new: Iterable[Item]) -> npt.NDArray[np.int64]:
        """Writes a part's items; returns the order in which those that are kept come first, int64 `[n]`."""
        reworded = np.asarray(sorted(kept.attributes), np.int64)
        same = np.setdiff1d(np.arange(len(kept.places)), reworded)
        order = np.concatenate([same, reworded])
        if self._options.base is None:
            write_items(path, new)
            return order
        with BaseItems(self._options.base) as base:
            items = zip(reworded.tolist(), base.items(kept.places[reworded]), strict=True)
            others = (dataclasses.replace(item, attributes=kept.attributes[at]) for at, item in items)
            copied = base.copied(kept.places[same], np.arange(len(same)))
            write_items(path, itertools.chain(others, new), copied)
        return order


class LookUp(beam.DoFn):
    """Yields (part, RowVectors) for what the cache holds, (owner, Misses) (tag `misses`) for the rest, and counts."""

    def __init__(self, options: EmbedOptions) -> None:
        self._options = options

    def process(self, group: tuple[str, Iterable[PartContents]]) -> Iterator[Any]:
        prefix, contents = group
        places: dict[bytes, list[tuple[int, int, int]]] = {}
        for part in contents:
            for position, (row, record) in enumerate(zip(part.rows.tolist(), part.records.tolist(), strict=True)):
                places.setdefault(part.keys[32 * position : 32 * position + 32], []).append((part.part, record, row))
        cache = open_cache(self._options)
        found = cache.lookup(prefix, places) if cache else {}
        yield from placed_vectors((vector, [(p, row) for p, _, row in places[key]]) for key, vector in found.items())
        # The same files give the same owners, in whatever order a runner hands them over.
        missing = sorted((min(where), key) for key, where in places.items() if key not in found)
        owned: dict[int, list[tuple[bytes, int]]] = {}
        for (owner, record, _), key in missing:
            owned.setdefault(owner, []).append((key, record))
        for owner, entries in owned.items():
            misses = Misses(
                keys=tuple(key for key, _ in entries),
                records=tuple(record for _, record in entries),
                places=tuple(tuple((part, row) for part, _, row in places[key]) for key, _ in entries),
            )
            yield beam.pvalue.TaggedOutput("misses", (owner, misses))
        yield beam.pvalue.TaggedOutput("counts", ContentCounts(cached=len(found)))


class Encode(beam.DoFn):
    """Streams a shard's images through the encoder; yields (part, RowVectors | RowFailures), and new embeddings by
    prefix (tag `new`)."""

    def __init__(self, options: EmbedOptions, shards: list[ExampleShard]) -> None:
        self._options = options
        self._shards = shards
        self._digits = prefix_digits(len(shards))
        self._shared = Shared()

    def process(self, owned: tuple[int, Iterable[Misses]]) -> Iterator[Any]:
        part, groups = owned
        options = self._options
        # Not before there is something to encode: loading it takes longer than a small reindex does.
        self._encoder = acquire_encoder(self._shared, options.encoder, options.dimension, options.digest)
        keys: dict[int, bytes] = {}
        places: dict[int, tuple[tuple[int, int], ...]] = {}
        for misses in groups:
            keys.update(zip(misses.records, misses.keys, strict=True))
            places.update(zip(misses.records, misses.places, strict=True))
        wanted = np.asarray(sorted(keys), np.int64)
        vectors = np.zeros((len(wanted), self._options.dimension), np.float32)
        reasons: dict[int, str] = {}
        done, started = 0, time.monotonic()
        logged = started
        for numbers, images in read_images(self._shards[part], wanted, self._options.batch_size):
            embedded = self._encoder.embed(images)
            vectors[done : done + len(numbers)] = embedded.vectors
            reasons.update({int(numbers[row]): reason for row, reason in embedded.failures.items()})
            done += len(numbers)
            now = time.monotonic()
            if now - logged > _LOG_SECONDS:
                logged = now
                _log.info("part %d: %d of %d images, %.0f per second", part, done, len(wanted), done / (now - started))
        if done != len(wanted):
            raise RuntimeError(f"part {part} must hold {len(wanted)} images to encode, its files gave {done}.")
        good = [row for row, number in enumerate(wanted.tolist()) if number not in reasons]
        yield from placed_vectors((vectors[row], places[int(wanted[row])]) for row in good)
        for number, reason in reasons.items():
            for place, row in places[number]:
                yield place, RowFailures({row: reason})
        digits = 0 if len(good) <= _FEW_NEW else self._digits
        by_prefix: dict[str, list[int]] = {}
        for row in good:
            by_prefix.setdefault(keys[int(wanted[row])].hex()[:digits], []).append(row)
        for prefix, rows in by_prefix.items():
            yield beam.pvalue.TaggedOutput("new", (prefix, ([keys[int(wanted[row])] for row in rows], vectors[rows])))
        yield beam.pvalue.TaggedOutput("counts", ContentCounts(encoded=len(wanted)))
        _log.info("part %d: encoded %d images in %.1f s", part, len(wanted), time.monotonic() - started)


class AddToCache(beam.DoFn):
    """Writes the new embeddings of one prefix into the cache, in one pair of files."""

    def __init__(self, options: EmbedOptions) -> None:
        self._options = options

    def process(self, group: tuple[str, Iterable[tuple[list[bytes], npt.NDArray[np.float32]]]]) -> None:
        prefix, pieces = group
        cache = open_cache(self._options)
        if cache is not None:
            pieces = list(pieces)
            cache.add(prefix, [key for keys, _ in pieces for key in keys], np.concatenate([v for _, v in pieces]))


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
                reasons.update(piece.reasons)
            else:
                vectors[piece.rows] = piece.vectors
                written[piece.rows] = True
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
