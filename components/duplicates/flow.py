"""What flows between the steps that group near-duplicates.

A node is an item, as its part and row in one number. A content is what several items may hold; of those that do, the
node that comes first stands for all.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from components.duplicates.options import DuplicateOptions

_ROW_BITS = 40
_ROWS = 2**_ROW_BITS

Nodes = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class GroupingOptions:
    """embeddings, output: the artifacts. parts: of the embeddings. shards: of the index; divides the parts."""

    embeddings: str
    output: str
    parts: int
    shards: int
    duplicates: DuplicateOptions


@dataclasses.dataclass(frozen=True)
class Copies:
    """Items by what they contain. nodes: int64 `[n]`. keys: n x 32 bytes, the sha256 of each."""

    nodes: Nodes
    keys: bytes


@dataclasses.dataclass(frozen=True)
class Looks:
    """Contents by what they look like. nodes: int64 `[n]`. hashes: uint64 `[n]`. order: uint64 `[n]`, the first bytes
    of their sha256."""

    nodes: Nodes
    hashes: npt.NDArray[np.uint64]
    order: npt.NDArray[np.uint64]


@dataclasses.dataclass(frozen=True)
class Candidates:
    """Pairs to be looked at. nodes: int64 `[P, 2]`; of each pair the first is the smaller. same: whether they are one
    content."""

    nodes: Nodes
    same: bool


@dataclasses.dataclass(frozen=True)
class HalfRead:
    """Pairs of which the first is read. nodes: int64 `[P, 2]`. same: bool `[P]`. places: int64 `[P]`, of the first in
    the others: names, contents (sha256), vectors float32 `[u, D]`."""

    nodes: Nodes
    same: npt.NDArray[np.bool_]
    places: Nodes
    names: tuple[str, ...]
    contents: tuple[str, ...]
    vectors: npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class Verified:
    """Pairs that are near-duplicates. items: node -> (item id, sha256). nodes: int64 `[P, 2]`. cosines: `[P]`."""

    items: dict[int, tuple[str, str]]
    nodes: Nodes
    cosines: npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class PartHashes:
    """The perceptual hashes of a part. hashes: int64 `[n]`. known: bool `[n]`, which of its rows have one."""

    part: int
    hashes: npt.NDArray[np.int64]
    known: npt.NDArray[np.bool_]


@dataclasses.dataclass(frozen=True)
class PartGroups:
    """The groups of a part's items: row -> group."""

    part: int
    groups: dict[int, str]


def nodes_of(part: int, rows: Nodes) -> Nodes:
    """Returns the nodes of some rows of a part."""
    return rows + part * _ROWS


def parts_of(nodes: Nodes) -> Nodes:
    """Returns the part of each node."""
    return nodes >> _ROW_BITS


def rows_of(nodes: Nodes) -> Nodes:
    """Returns the row of each node in its part."""
    return nodes & (_ROWS - 1)


def place_of(node: int) -> tuple[int, int]:
    """Returns the part and row of a node."""
    return divmod(node, _ROWS)


def by_part(nodes: Nodes) -> Iterator[tuple[int, npt.NDArray[np.intp]]]:
    """Yields each part of some nodes, `[n]`, and the places of those that are in it."""
    parts = parts_of(nodes)
    for part in np.unique(parts).tolist():
        yield part, np.flatnonzero(parts == part)
