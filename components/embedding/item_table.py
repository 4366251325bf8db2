"""The items of a part: those that the base release keeps, then those that were read, with their thumbnails."""

import concurrent.futures
import dataclasses
import itertools
import logging
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from components.embedding.example_shards import Records
from components.ingest.notes import Kept, Note
from components.reindex.base import Base, BaseItems
from serving.images import ImageError, thumbnail
from serving.release.items import Item, write_items

_log = logging.getLogger(__name__)

_THUMBNAIL_SIDE = 96
# A canonical image this small is its own thumbnail.
_THUMBNAIL_BYTES = 2**14
_NO_NOTE = Note(-1, "")


def small_images(records: Records, crew: concurrent.futures.Executor) -> list[bytes]:
    """Returns the thumbnails of some items, made from their canonical images."""
    small = list(records.images)
    large = [
        row
        for row, (width, height, image) in enumerate(zip(records.widths, records.heights, small, strict=True))
        # Of all others serving.images would say the same, after opening them.
        if max(width, height) > _THUMBNAIL_SIDE or len(image) > _THUMBNAIL_BYTES
    ]
    made = crew.map(_small_image, [small[row] for row in large], [records.item_ids[row] for row in large])
    for row, image in zip(large, made, strict=True):
        small[row] = image
    return small


def _small_image(image: bytes, item_id: str) -> bytes:
    try:
        return thumbnail(image, _THUMBNAIL_SIDE)
    except ImageError as error:
        # Whether such an image is in the collection is for the encoder to say.
        _log.warning("no thumbnail of %s: %s", item_id, error)
        return b""


class ItemTable:
    """Collects the items that were read of one part, in order: each id once, however many splits hold it.

    notes: what is noted of the items, by id.
    """

    def __init__(self, notes: Mapping[str, Note]) -> None:
        self._notes = notes
        self._rows: dict[str, int] = {}
        self.held_out: list[bool] = []

    def add(self, records: Records, thumbnails: Sequence[bytes]) -> Iterator[Item]:
        """Yields the items that are new, to be written in this order."""
        is_eval = records.split == "eval"
        columns = (records.uris, records.sha256s, records.widths, records.heights, records.attributes, thumbnails)
        for item_id, uri, sha256, width, height, attributes, small in zip(records.item_ids, *columns, strict=True):
            row = self._rows.get(item_id)
            if row is not None:
                # The eval split of a tiny collection is its train split once more: held out, but no other item.
                self.held_out[row] |= is_eval
                continue
            self._rows[item_id] = len(self.held_out)
            self.held_out.append(is_eval)
            note = self._notes.get(item_id, _NO_NOTE)
            # What is noted beside an example may be of any type.
            said = attributes if note.attributes is None else note.attributes
            yield Item(item_id, uri, sha256, width, height, said, small, note.size, note.version)


def write_part(path: pathlib.Path, base: Base | None, kept: Kept, new: Iterable[Item]) -> npt.NDArray[np.int64]:
    """Writes a part's items; returns the order in which those that are kept come first, int64 `[n]`."""
    reworded = np.asarray(sorted(kept.attributes), np.int64)
    same = np.setdiff1d(np.arange(len(kept.places)), reworded)
    order = np.concatenate([same, reworded])
    if base is None:
        write_items(path, new)
        return order
    with BaseItems(base) as held:
        items = zip(reworded.tolist(), held.items(kept.places[reworded]), strict=True)
        others = (dataclasses.replace(item, attributes=kept.attributes[at]) for at, item in items)
        copied = held.copied(kept.places[same], np.arange(len(same)))
        write_items(path, itertools.chain(others, new), copied)
    return order
