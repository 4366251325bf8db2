"""Writes the items of a part, and reads and encodes the images that are new among its own, at the same time."""

import collections
import concurrent.futures
import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import tensorflow as tf
from apache_beam.utils.shared import Shared

from components import features
from components.artifact_files import stored
from components.embedding import parts as embedding_parts
from components.embedding.cache import prefix_digits
from components.embedding.crew import crew_size, open_crew
from components.embedding.example_shards import ExampleShard, read_records
from components.embedding.flow import (
    ContentCounts,
    EmbedOptions,
    Misses,
    PartItems,
    Places,
    RowFailures,
    placed_vectors,
)
from components.embedding.lookup import by_prefix
from components.embedding.part_items import write_part
from components.embedding.saved_encoder import SavedEncoder, acquire_encoder, limit_threads
from components.ingest.notes import NO_KEPT, read_kept
from serving.release.cached_embeddings import KEY_BYTES, Vectors
from serving.storage import open_store

_log = logging.getLogger(__name__)

_LOG_SECONDS = 20.0
# So few new embeddings of a part go into one pair of files with those of other such parts: each pair has to be synced.
_FEW_NEW = 256
_EXAMPLE = {name: tf.io.FixedLenFeature([], tf.string) for name in (features.IMAGE, features.SHA256)}


def join_misses(pieces: Sequence[Misses]) -> Misses:
    """Returns the misses of all `pieces` in the order of their records."""
    if not pieces:
        none = np.zeros(0, np.int64)
        return Misses(np.zeros((0, KEY_BYTES), np.uint8), none, Places(none, none, none))
    offsets = np.cumsum([0, *(len(piece.records) for piece in pieces)])
    records = np.concatenate([piece.records for piece in pieces])
    order = np.argsort(records)
    number_of = np.empty(len(order), np.int64)
    number_of[order] = np.arange(len(order))
    numbers = [piece.places.contents + offset for piece, offset in zip(pieces, offsets, strict=False)]
    places = Places(
        number_of[np.concatenate(numbers)],
        np.concatenate([piece.places.parts for piece in pieces]),
        np.concatenate([piece.places.rows for piece in pieces]),
    )
    return Misses(np.concatenate([piece.keys for piece in pieces])[order], records[order], places)


class Encoding:
    """The embeddings of a shard's images, as these are read: several batches at a time where there are threads.

    misses: the images to encode, n of them, in the order of their records. vectors: float32 `[n, D]`, those in
    `reasons` are zero. reasons: for each image that the encoder refused.
    """

    def __init__(
        self, encoder: SavedEncoder, misses: Misses, options: EmbedOptions, crew: concurrent.futures.Executor
    ) -> None:
        wanted = misses.records
        self.vectors = np.zeros((len(wanted), options.dimension), np.float32)
        self.reasons: dict[int, str] = {}
        self._encoder, self._crew = encoder, crew
        self._wanted, self._keys = wanted, misses.keys
        self._batch_size = options.batch_size
        # One waits for each that is encoded: no more are in memory.
        self._at_once = 2 * crew_size(options.threads)
        self._calls: collections.deque[concurrent.futures.Future[None]] = collections.deque()
        self._records: list[bytes] = []
        self._seen = self._begun = 0
        self._started = self._logged = time.monotonic()

    @property
    def is_fed(self) -> bool:
        """Whether it has taken every record that it wants."""
        return self._begun + len(self._records) == len(self._wanted)

    def take(self, records: Sequence[bytes]) -> None:
        """Takes the next records, serialized tf.Examples, wanted or not."""
        low, high = np.searchsorted(self._wanted, (self._seen, self._seen + len(records)))
        self._records += [records[place] for place in (self._wanted[low:high] - self._seen).tolist()]
        self._seen += len(records)
        while len(self._records) >= self._batch_size:
            self._begin()

    def finish(self) -> None:
        """Returns when all are encoded; raises RuntimeError where records were never taken or hold other images."""
        while self._records:
            self._begin()
        while self._calls:
            self._calls.popleft().result()
        if self._begun != len(self._wanted):
            raise RuntimeError(f"a part must hold {len(self._wanted)} images to encode, its files gave {self._begun}.")

    def _begin(self) -> None:
        while len(self._calls) >= self._at_once:
            self._calls.popleft().result()
        records, self._records = self._records[: self._batch_size], self._records[self._batch_size :]
        self._calls.append(self._crew.submit(self._encode, self._begun, records))
        self._begun += len(records)
        now = time.monotonic()
        if now - self._logged > _LOG_SECONDS:
            self._logged = now
            speed = self._begun / (now - self._started)
            _log.info("%d of %d images, %.0f per second", self._begun, len(self._wanted), speed)

    def _encode(self, first: int, records: list[bytes]) -> None:
        # TensorFlow's own parser hands the images on without Python, and without its lock.
        parsed = tf.io.parse_example(tf.constant(records, tf.string), _EXAMPLE)
        last = first + len(records)
        if b"".join(parsed[features.SHA256].numpy().tolist()).decode() != self._keys[first:last].tobytes().hex():
            raise RuntimeError(
                f"records {self._wanted[first]} to {self._wanted[last - 1]} hold other images than their list of"
                " contents."
            )
        embedded = self._encoder.embed(parsed[features.IMAGE])
        self.vectors[first:last] = embedded.vectors
        self.reasons.update({first + row: reason for row, reason in embedded.failures.items()})


class EncodePart(beam.DoFn):
    """Writes the items of a part and encodes the contents that it owns.

    Yields (part, RowVectors | RowFailures), its PartItems (tag `items`), new embeddings by prefix (tag `new`), counts.
    """

    def __init__(self, options: EmbedOptions, parts: int) -> None:
        self._options = options
        self._parts = parts
        self._digits = prefix_digits(parts)
        self._shared = Shared()

    def process(self, group: tuple[int, dict[str, Iterable[Any]]]) -> Iterator[Any]:
        part, inputs = group
        options, started = self._options, time.monotonic()
        shard: ExampleShard = next(iter(inputs["shards"]))
        misses = join_misses(list(inputs["misses"]))
        vectors, reasons = np.zeros((0, options.dimension), np.float32), dict[int, str]()
        with open_crew(options.threads) as crew:
            # SQLite copies them without Python's lock.
            writing = crew.submit(self._write_items, part)
            if len(misses.records):
                vectors, reasons = self._encode(shard, misses, crew)
            items = writing.result()
        _log.info(
            "part %d of %d: %d items, %d of them kept; encoded %d images; %.1f s",
            *(part, self._parts, items.count, len(items.kept), len(misses.records), time.monotonic() - started),
        )
        yield beam.pvalue.TaggedOutput("items", (part, items))
        is_good = np.ones(len(misses.records), bool)
        is_good[list(reasons)] = False
        yield from placed_vectors(vectors, misses.places[is_good[misses.places.contents]])
        refused = misses.places[~is_good[misses.places.contents]]
        for content, place, row in zip(
            refused.contents.tolist(), refused.parts.tolist(), refused.rows.tolist(), strict=True
        ):
            yield place, RowFailures({row: reasons[content]})
        good = np.flatnonzero(is_good)
        digits = 0 if len(good) <= _FEW_NEW else self._digits
        for prefix, chosen in by_prefix(misses.keys[good], digits) if len(good) else ():
            new = (misses.keys[good[chosen]], vectors[good[chosen]])
            yield beam.pvalue.TaggedOutput("new", (prefix, new))
        yield beam.pvalue.TaggedOutput("counts", ContentCounts(encoded=len(misses.records)))

    def _encode(
        self, shard: ExampleShard, misses: Misses, crew: concurrent.futures.Executor
    ) -> tuple[Vectors, dict[int, str]]:
        options = self._options
        # Not before there is something to encode: loading it takes longer than a small reindex does.
        limit_threads(options.threads)
        encoder = acquire_encoder(self._shared, options.encoder, options.dimension, options.digest)
        encoding = Encoding(encoder, misses, options, crew)
        for records in read_records(shard, options.batch_size):
            encoding.take(records)
            if encoding.is_fed:
                break
        encoding.finish()
        return encoding.vectors, encoding.reasons

    def _write_items(self, part: int) -> PartItems:
        options = self._options
        store, examples = open_store(options.output), open_store(options.examples)
        kept = read_kept(examples, part, self._parts) if options.base else NO_KEPT
        with stored(store, embedding_parts.items_file(part, self._parts)) as path:
            order, held_out = write_part(path, options.base, kept, examples, part, self._parts)
        held_out = np.concatenate([kept.held_out[order], held_out])
        return PartItems(part, len(held_out), held_out, kept.places[order])
