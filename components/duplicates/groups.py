"""Groups of near-duplicates, of pairs. A chain of pairs is not one group: each group has a leader that all are near."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class Pair(NamedTuple):
    """Two contents, by their sha256, that are near-duplicates. cosine: of their embeddings."""

    first: str
    second: str
    cosine: float


class Group(NamedTuple):
    """Items that are near-duplicates. name: the smallest of their ids. items: all of them, sorted. contents: how many
    distinct ones."""

    name: str
    items: tuple[str, ...]
    contents: int


def find_groups(items: Mapping[str, Sequence[str]], pairs: Sequence[Pair]) -> list[Group]:
    """Returns the groups of more than one item, largest first, then by name.

    In the order of their sha256, which has nothing to do with names or places, a content that is near a leader joins
    the one that it is nearest to; any other becomes a leader itself. So all of a group are near its leader, whatever
    else is near to them: a lexicographically first maximal independent set (of leaders), and stars around it.

    items: the ids that hold each content, by its sha256; of every content in `pairs`, and of others that several hold.
    """
    members: dict[str, list[str]] = {}
    for content, leader in zip(sorted(items), _leaders(sorted(items), pairs), strict=True):
        members.setdefault(leader, []).append(content)
    groups = []
    for contents in members.values():
        ids = sorted(item_id for content in contents for item_id in items[content])
        if len(ids) > 1:
            groups.append(Group(ids[0], tuple(ids), len(contents)))
    return sorted(groups, key=lambda group: (-len(group.items), group.name))


def _leaders(contents: Sequence[str], pairs: Sequence[Pair]) -> list[str]:
    place = {content: i for i, content in enumerate(contents)}
    ends = np.array([(place[pair.first], place[pair.second]) for pair in pairs], np.int64).reshape(-1, 2)
    cosines = np.array([pair.cosine for pair in pairs], np.float64)
    earlier, later = ends.min(axis=1), ends.max(axis=1)
    # By the later one; of one's earlier ones the nearest first.
    order = np.lexsort((earlier, -cosines, later))
    starts: npt.NDArray[np.int64] = np.searchsorted(later[order], np.arange(len(contents) + 1))
    candidates = earlier[order].tolist()
    led = list(range(len(contents)))
    for i, (start, end) in enumerate(zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True)):
        led[i] = next((other for other in candidates[start:end] if led[other] == other), i)
    return [contents[i] for i in led]
