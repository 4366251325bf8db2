"""What was found out about the items of an index shard, put into them when they are written."""

import dataclasses
from collections.abc import Iterable, Iterator

from components.duplicates.flow import PartGroups, PartHashes
from serving.release.items import Item

Mark = PartHashes | PartGroups


class ShardMarks:
    """The marks of one shard's parts; none where nobody looked."""

    def __init__(self, marks: Iterable[Mark]) -> None:
        self._hashes: dict[int, PartHashes] = {}
        self._groups: dict[int, dict[int, str]] = {}
        for mark in marks:
            if isinstance(mark, PartHashes):
                self._hashes[mark.part] = mark
            else:
                self._groups[mark.part] = mark.groups

    def marked(self, part: int, items: Iterable[Item]) -> Iterator[Item]:
        """Yields the items of a part, all of them in order, with their hashes and groups."""
        found = self._hashes.get(part)
        if found is None:
            yield from items
            return
        groups = self._groups.get(part, {})
        hashes, known = found.hashes.tolist(), found.known.tolist()
        for row, item in enumerate(items):
            own = hashes[row] if known[row] else None
            group = groups.get(row, "")
            if item.perceptual_hash != own or item.duplicate_group != group:
                item = dataclasses.replace(item, perceptual_hash=own, duplicate_group=group)
            yield item
