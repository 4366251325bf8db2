"""Groups of near-duplicates, of pairs. A chain of pairs is not one group: each group has a leader that all are near."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple


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

    A content that is near no leader becomes one, those with the most pairs first, of equals by their sha256, which has
    nothing to do with names or places. Then each other one joins the leader that it is nearest to. So all of a group
    are near its leader, whatever else is near to them: the star clustering of J. Aslam, E. Pelekhov and D. Rus (Journal
    of Graph Algorithms and Applications 8, 2004), with no content in two groups.

    items: the ids that hold each content, by its sha256; of every content in `pairs`, and of others that several hold.
    """
    members: dict[str, list[str]] = {}
    contents = sorted(items)
    for content, leader in zip(contents, _leaders(contents, pairs), strict=True):
        members.setdefault(leader, []).append(content)
    groups = []
    for some in members.values():
        ids = sorted(item_id for content in some for item_id in items[content])
        if len(ids) > 1:
            groups.append(Group(ids[0], tuple(ids), len(some)))
    return sorted(groups, key=lambda group: (-len(group.items), group.name))


def _leaders(contents: Sequence[str], pairs: Sequence[Pair]) -> list[str]:
    """Returns the leader of each content, itself where it leads. contents: sorted."""
    place = {content: i for i, content in enumerate(contents)}
    near: list[dict[int, float]] = [{} for _ in contents]
    for pair in pairs:
        first, second = place[pair.first], place[pair.second]
        near[first][second] = near[second][first] = pair.cosine
    leads = [False] * len(contents)
    for i in sorted(range(len(contents)), key=lambda i: (-len(near[i]), i)):
        leads[i] = not any(leads[other] for other in near[i])
    return [
        contents[i if leads[i] else max((o for o in others if leads[o]), key=lambda other: (others[other], -other))]
        for i, others in enumerate(near)
    ]
