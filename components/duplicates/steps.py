"""The steps that group near-duplicates, in their order; `components.duplicates.find` connects them.

Of hashes and vectors only what pairs need is shuffled, in arrays. A worker holds a part of the embeddings, or what one
byte of the hashes has in common; but for the last step, which holds the pairs.
"""

import contextlib
import json
import logging
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import numpy.typing as npt

from components.artifact_files import fetched
from components.duplicates.buckets import BANDS, band, distinct_pairs, near_pairs, turned
from components.duplicates.flow import (
    Candidates,
    Copies,
    GroupingOptions,
    HalfRead,
    Looks,
    Nodes,
    PartGroups,
    PartHashes,
    Verified,
    by_part,
    nodes_of,
    place_of,
    rows_of,
)
from components.duplicates.groups import Group, Pair, find_groups
from components.duplicates.perceptual_hash import perceptual_hashes
from components.duplicates.picture import draw_groups
from components.embedding import parts as embedding_parts
from components.embedding.cache import prefix_digits
from serving.release.items import ItemShard
from serving.storage import open_store

_log = logging.getLogger(__name__)

REPORT = "duplicates.json"
PICTURE = "duplicates.png"
_KEY_BYTES = 32
_READ_AT_ONCE = 1000
_REPORTED = 100  # of the largest groups, in the report
_SHOWN = 12  # of them in the picture, and of the items of each
# As float32 rounds them.
_ROUNDING = 1e-6


class ReadContents(beam.DoFn):
    """Yields (shard, PartHashes) of a part, and by what they have in common Copies (tag `copies`) and Looks (`looks`).

    A hash that the part lacks is made of the item's thumbnail, so nothing has to be read that isn't there.
    """

    def __init__(self, options: GroupingOptions) -> None:
        self._options = options
        self._digits = prefix_digits(options.parts)
        # As many slices of a byte's 256 values as there are parts, more or less.
        self._shift = max(0, 8 - (options.parts - 1).bit_length())

    def process(self, part: int) -> Iterator[Any]:
        options = self._options
        name = embedding_parts.items_file(part, options.parts)
        with (
            fetched(open_store(options.embeddings), name) as path,
            contextlib.closing(ItemShard(path)) as items,
        ):
            contents = list(items.contents())
            hashes = np.array([known or 0 for _, _, known in contents], np.int64)
            known = np.array([known is not None for _, _, known in contents], np.bool_)
            missing = np.flatnonzero(~known).tolist()
            for start in range(0, len(missing), _READ_AT_ONCE):
                rows = missing[start : start + _READ_AT_ONCE]
                found = perceptual_hashes([item.thumbnail for item in items.by_row(rows, thumbnails=True)])
                hashes[rows], known[rows] = found[0].view(np.int64), found[1]
        yield part % options.shards, PartHashes(part, hashes, known)
        keys = np.frombuffer(bytes.fromhex("".join(sha256 for _, sha256, _ in contents)), np.uint8)
        keys = keys.reshape(-1, _KEY_BYTES)
        nodes = nodes_of(part, np.arange(len(contents)))
        yield from self._copies(nodes, keys)
        if len(nodes):
            # The others of a content look as the first of them does.
            first = np.unique(_strings(keys), return_index=True)[1]
            first = np.sort(first[known[first]])
            order = np.ascontiguousarray(keys[first, :8]).view(">u8").reshape(-1).astype(np.uint64)
            yield from self._looks(Looks(nodes[first], hashes[first].view(np.uint64), order))

    def _copies(self, nodes: Nodes, keys: npt.NDArray[np.uint8]) -> Iterator[Any]:
        prefixes = np.array([key.tobytes().hex()[: self._digits] for key in keys[:, :4]])
        for prefix in np.unique(prefixes).tolist():
            ours = prefixes == prefix
            yield beam.pvalue.TaggedOutput("copies", (prefix, Copies(nodes[ours], keys[ours].tobytes())))

    def _looks(self, looks: Looks) -> Iterator[Any]:
        for number in range(BANDS):
            slices = band(looks.hashes, number) >> self._shift
            for slice_ in np.unique(slices).tolist():
                ours = slices == slice_
                some = Looks(looks.nodes[ours], looks.hashes[ours], looks.order[ours])
                yield beam.pvalue.TaggedOutput("looks", (f"{number}/{slice_}", some))


class PairCopies(beam.DoFn):
    """Yields (part, Candidates): items of one content, each with the first of them."""

    def process(self, group: tuple[str, Iterable[Copies]]) -> Iterator[tuple[int, Candidates]]:
        pieces = list(group[1])
        nodes = np.concatenate([piece.nodes for piece in pieces])
        keys = np.frombuffer(b"".join(piece.keys for piece in pieces), np.uint8).reshape(-1, _KEY_BYTES)
        order = np.argsort(nodes)
        nodes = nodes[order]
        _, first, which = np.unique(_strings(keys[order]), return_index=True, return_inverse=True)
        others = np.flatnonzero(first[which] != np.arange(len(nodes)))
        yield from _candidates(np.column_stack([nodes[first[which[others]]], nodes[others]]), same=True)


class PairLooks(beam.DoFn):
    """Yields (part, Candidates): contents whose hashes have a byte in common, and differ in few bits."""

    def __init__(self, options: GroupingOptions) -> None:
        self._hamming = options.duplicates.hamming

    def process(self, group: tuple[str, Iterable[Looks]]) -> Iterator[tuple[int, Candidates]]:
        number = int(group[0].partition("/")[0])
        pieces = list(group[1])
        nodes = np.concatenate([piece.nodes for piece in pieces])
        hashes = np.concatenate([piece.hashes for piece in pieces])
        order = np.concatenate([piece.order for piece in pieces])
        # Parts each yield their first of a content; of all of them the first again.
        by_node = np.argsort(nodes)
        kept = by_node[np.sort(np.unique(order[by_node], return_index=True)[1])]
        nodes, hashes, order = nodes[kept], hashes[kept], order[kept]
        values, in_front = band(hashes, number), turned(hashes, number)
        found = [np.zeros((0, 2), np.int64)]
        for value in np.unique(values).tolist():
            places = np.flatnonzero(values == value)
            found.append(places[near_pairs(in_front[places], order[places], self._hamming)])
        yield from _candidates(np.sort(nodes[np.concatenate(found)], axis=1), same=False)


class ReadFirst(beam.DoFn):
    """Yields (part of the second, HalfRead) for pairs whose first is in one part."""

    def __init__(self, options: GroupingOptions) -> None:
        self._options = options

    def process(self, group: tuple[int, Iterable[Candidates]]) -> Iterator[tuple[int, HalfRead]]:
        part, pieces = group[0], list(group[1])
        # A pair may have several bytes in common.
        near = np.concatenate([np.zeros((0, 2), np.int64), *(piece.nodes for piece in pieces if not piece.same)])
        near = distinct_pairs(near)
        copies = np.concatenate([np.zeros((0, 2), np.int64), *(piece.nodes for piece in pieces if piece.same)])
        nodes = np.concatenate([copies, near])
        same = np.arange(len(nodes)) < len(copies)
        for other, places in by_part(nodes[:, 1]):
            first, which = np.unique(nodes[places, 0], return_inverse=True)
            names, contents = _read_items(self._options, part, rows_of(first))
            vectors = _read_vectors(self._options, part, rows_of(first))
            yield other, HalfRead(nodes[places], same[places], which, names, contents, vectors)


class Verify(beam.DoFn):
    """Yields (0, Verified): those of the pairs whose second is in one part that are near-duplicates."""

    def __init__(self, options: GroupingOptions) -> None:
        self._options = options

    def process(self, group: tuple[int, Iterable[HalfRead]]) -> Iterator[tuple[int, Verified]]:
        part, least = group[0], self._options.duplicates.cosine - _ROUNDING
        for half in group[1]:
            vectors = _read_vectors(self._options, part, rows_of(half.nodes[:, 1]))
            cosines = np.einsum("ij,ij->i", half.vectors[half.places], vectors)
            kept = half.same | (cosines >= least)
            if not kept.any():
                continue
            nodes, places = half.nodes[kept], half.places[kept]
            second = np.unique(nodes[:, 1])
            items = dict(
                zip(second.tolist(), zip(*_read_items(self._options, part, rows_of(second)), strict=True), strict=True)
            )
            for node, place in zip(nodes[:, 0].tolist(), places.tolist(), strict=True):
                items[node] = half.names[place], half.contents[place]
            yield 0, Verified(items, nodes, cosines[kept])


class WriteGroups(beam.DoFn):
    """Writes the report and its picture; yields (shard, PartGroups)."""

    def __init__(self, options: GroupingOptions) -> None:
        self._options = options

    def process(self, group: tuple[int, Iterable[Verified]]) -> Iterator[tuple[int, PartGroups]]:
        options = self._options
        items: dict[int, tuple[str, str]] = {}
        pairs: list[Pair] = []
        for piece in group[1]:
            items.update(piece.items)
            for (first, second), cosine in zip(piece.nodes.tolist(), piece.cosines.tolist(), strict=True):
                pairs.append(Pair(items[first][1], items[second][1], cosine))
        by_content: dict[str, list[str]] = {}
        for name, content in items.values():
            by_content.setdefault(content, []).append(name)
        groups = find_groups(by_content, [pair for pair in pairs if pair.first != pair.second])
        nodes = {name: node for node, (name, _) in items.items()}
        self._report(groups, nodes)
        marked: dict[int, dict[int, str]] = {}
        for found in groups:
            for name in found.items:
                part, row = place_of(nodes[name])
                marked.setdefault(part, {})[row] = found.name
        for part, rows in marked.items():
            yield part % options.shards, PartGroups(part, rows)

    def _report(self, groups: list[Group], nodes: dict[str, int]) -> None:
        options = self._options
        grouped = sum(len(group.items) for group in groups)
        _log.info("%d groups of near-duplicates, of %d items", len(groups), grouped)
        value = {
            "hamming": options.duplicates.hamming,
            "cosine": options.duplicates.cosine,
            "groups": len(groups),
            "items": grouped,
            "identical": sum(group.contents == 1 for group in groups),
            "largest": [
                {"group": g.name, "items": len(g.items), "contents": g.contents, "first": list(g.items[:_SHOWN])}
                for g in groups[:_REPORTED]
            ],
        }
        store = open_store(options.output)
        store.write(REPORT, (json.dumps(value, indent=1, sort_keys=True) + "\n").encode())
        shown = [group.items[:_SHOWN] for group in groups[:_SHOWN]]
        if shown:
            wanted = np.array([nodes[name] for names in shown for name in names], np.int64)
            thumbnails = iter(_read_thumbnails(options, wanted))
            lines = [[next(thumbnails) for _ in names] for names in shown]
            captions = [f"{group.name}: {len(group.items)}" for group in groups[:_SHOWN]]
            store.write(PICTURE, draw_groups(lines, captions))


def read_duplicates(uri: str) -> dict[str, Any] | None:
    """Returns how many groups and items in them the VectorIndex artifact at `uri` has, and by what they were found.

    None where nobody looked.
    """
    try:
        report = json.loads(open_store(uri).read(REPORT))
    except FileNotFoundError:
        return None
    return {name: report[name] for name in ("hamming", "cosine", "groups", "items", "identical")}


def _candidates(nodes: Nodes, *, same: bool) -> Iterator[tuple[int, Candidates]]:
    for part, places in by_part(nodes[:, 0]):
        yield part, Candidates(nodes[places], same)


def _strings(keys: npt.NDArray[np.uint8]) -> npt.NDArray[np.void]:
    """Returns each row of bytes as one value, which NumPy can sort."""
    return np.ascontiguousarray(keys).view(np.dtype((np.void, keys.shape[1]))).reshape(-1)


def _read_vectors(options: GroupingOptions, part: int, rows: Nodes) -> npt.NDArray[np.float32]:
    store = open_store(options.embeddings)
    return embedding_parts.read_vectors(store, embedding_parts.read_report(store), part)[rows]


def _read_items(options: GroupingOptions, part: int, rows: Nodes) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Returns ids and sha256s of some rows of a part."""
    with (
        fetched(open_store(options.embeddings), embedding_parts.items_file(part, options.parts)) as path,
        contextlib.closing(ItemShard(path)) as shard,
    ):
        items = shard.by_row(rows.tolist())
        return tuple(item.item_id for item in items), tuple(item.sha256 for item in items)


def _read_thumbnails(options: GroupingOptions, nodes: Nodes) -> list[bytes]:
    found = [b""] * len(nodes)
    for part, places in by_part(nodes):
        with (
            fetched(open_store(options.embeddings), embedding_parts.items_file(part, options.parts)) as path,
            contextlib.closing(ItemShard(path)) as shard,
        ):
            items = shard.by_row(rows_of(nodes[places]).tolist(), thumbnails=True)
            for place, item in zip(places.tolist(), items, strict=True):
                found[place] = item.thumbnail
    return found
