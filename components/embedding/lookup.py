"""Who embeds what: each content once, by the part that holds its first record, and none that the cache holds."""

from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import numpy as np

from components.embedding.cache import prefix_digits
from components.embedding.example_shards import ExampleShard
from components.embedding.flow import (
    ContentCounts,
    EmbedOptions,
    Misses,
    Numbers,
    PartContents,
    Places,
    groups,
    open_cache,
    placed_vectors,
)
from components.ingest.notes import read_contents_of
from serving.release.cached_embeddings import Keys
from serving.storage import open_store


def by_prefix(keys: Keys, digits: int) -> Iterator[tuple[str, Numbers]]:
    """Yields (prefix, which of the `keys` uint8 `[n, 32]` begin with it), for prefixes of so many hex digits."""
    if digits == 0:
        yield "", np.arange(len(keys))
        return
    heads = np.ascontiguousarray(keys[:, :8]).view(">u8").ravel() >> np.uint64(64 - 4 * digits)
    for number, chosen in groups(heads.astype(np.int64)):
        yield f"{number:0{digits}x}", chosen


def distinct(keys: Keys, parts: Numbers, rows: Numbers) -> tuple[Numbers, Numbers, Numbers]:
    """Returns what is the same among m places: for n contents, in the order of their keys.

    Returns:
      order: int64 `[m]`, the places sorted by key, then part, then row.
      contents: int64 `[m]`, for each place in that order its content's number.
      firsts: int64 `[n]`, for each content where in that order it comes first.
    """
    words = np.ascontiguousarray(keys).view(">u8").reshape(len(keys), 4)
    order = np.lexsort((rows, parts, *words.T[::-1]))
    words = words[order]
    is_new = np.ones(len(words), bool)
    is_new[1:] = (words[1:] != words[:-1]).any(axis=1)
    return order, np.cumsum(is_new) - 1, np.flatnonzero(is_new)


class ReadContents(beam.DoFn):
    """Yields what the items of an example shard contain: PartContents, by prefix."""

    def __init__(self, options: EmbedOptions, parts: int) -> None:
        self._options = options
        self._parts = parts
        self._digits = prefix_digits(parts)

    def process(self, shard: ExampleShard) -> Iterator[tuple[str, PartContents]]:
        store = open_store(self._options.examples)
        keys = read_contents_of(store, shard.shard, self._parts)
        for prefix, rows in by_prefix(keys, self._digits):
            yield prefix, PartContents(shard.shard, keys[rows], rows)


class LookUp(beam.DoFn):
    """Yields (part, RowVectors) for what the cache holds, (owner, Misses) (tag `misses`) for the rest, and counts."""

    def __init__(self, options: EmbedOptions) -> None:
        self._options = options

    def process(self, group: tuple[str, Iterable[PartContents]]) -> Iterator[Any]:
        prefix, contents = group[0], list(group[1])
        keys = np.concatenate([some.keys for some in contents])
        parts = np.concatenate([np.full(len(some.rows), some.part) for some in contents])
        rows = np.concatenate([some.rows for some in contents])
        # The same files give the same owners, in whatever order a runner hands them over.
        order, numbers, firsts = distinct(keys, parts, rows)
        places = Places(numbers, parts[order], rows[order])
        keys, owners, rows = (values[order][firsts] for values in (keys, parts, rows))
        is_known = np.zeros(len(keys), bool)
        cache = open_cache(self._options)
        found = cache.lookup(prefix, map(bytes, keys)) if cache else {}
        if found:
            vectors = np.zeros((len(keys), self._options.dimension), np.float32)
            for number, key in enumerate(map(bytes, keys)):
                if key in found:
                    is_known[number], vectors[number] = True, found[key]
            yield from placed_vectors(vectors, places[is_known[places.contents]])
        missing = np.flatnonzero(~is_known)
        # Sorted by owner, what each owns is a run of them; so are their places.
        missing = missing[np.argsort(owners[missing], kind="stable")]
        number_of = np.full(len(keys), -1)
        number_of[missing] = np.arange(len(missing))
        numbers = number_of[places.contents]
        places = Places(numbers, places.parts, places.rows)[np.argsort(numbers, kind="stable")[(numbers < 0).sum() :]]
        for owner, run in groups(owners[missing]):
            low, high = np.searchsorted(places.contents, (run[0], run[-1] + 1))
            mine = places[np.arange(low, high)]
            chosen = missing[run]
            its = Places(mine.contents - run[0], mine.parts, mine.rows)
            yield beam.pvalue.TaggedOutput("misses", (owner, Misses(keys[chosen], rows[chosen], its)))
        yield beam.pvalue.TaggedOutput("counts", ContentCounts(cached=len(found)))
