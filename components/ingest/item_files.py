"""The items of a shard, as a release will hold them, with their thumbnails: the only place that spells these names.

`items/train-00000-of-00008.sqlite`, beside the examples and in their order, as serving.release.items writes them;
`eval` likewise. Ingest has the images in its hands, so that whoever embeds them need only encode them. Each item once,
also where one split is a copy of the other. A file's size and time are here and not in the examples: they say nothing
to a statistic or a schema.
"""

import contextlib
import logging
import pathlib
import shutil
from collections.abc import Iterator

from components.artifact_files import fetched, stored
from components.ingest.listing import Entry
from components.ingest.notes import as_stored
from components.ingest.shard_result import SPLITS
from serving.images import CanonicalImage, ImageError, thumbnail
from serving.release.items import Item, ItemWriter
from serving.storage import Store

_log = logging.getLogger(__name__)

_THUMBNAIL_SIDE = 96
# A canonical image this small is its own thumbnail.
_THUMBNAIL_BYTES = 2**14


def _items_file(split: str, shard: int, shards: int) -> str:
    return f"items/{split}-{shard:05d}-of-{shards:05d}.sqlite"


def item_of(entry: Entry, image: CanonicalImage, label: str | None) -> Item:
    """Returns the item that an entry's canonical image becomes. label: its attribute `label`, None for none."""
    # What a gateway took in may be of any type; all else is as an example gives it back.
    attributes = dict(entry.attributes) if entry.update else as_stored(entry.attributes, label)
    where = (entry.item_id, entry.uri, image.sha256, image.width, image.height)
    return Item(*where, attributes, _small_image(entry.item_id, image), entry.size, entry.version)


def _small_image(item_id: str, image: CanonicalImage) -> bytes:
    # Of all others serving.images would say the same, after opening them.
    if max(image.width, image.height) <= _THUMBNAIL_SIDE and len(image.data) <= _THUMBNAIL_BYTES:
        return image.data
    try:
        return thumbnail(image.data, _THUMBNAIL_SIDE)
    except ImageError as error:
        # Whether such an image is in the collection is for the encoder to say.
        _log.warning("no thumbnail of %s: %s", item_id, error)
        return b""


@contextlib.contextmanager
def item_writers(store: Store, shard: int, shards: int) -> Iterator[dict[str, ItemWriter]]:
    """Yields what writes the items of each split of a shard; the files are whole when the context ends."""
    with contextlib.ExitStack() as stack:
        paths = {split: stack.enter_context(stored(store, _items_file(split, shard, shards))) for split in SPLITS}
        # Nobody filters by them before they are in a release.
        yield {split: stack.enter_context(ItemWriter(path, indexed=False)) for split, path in paths.items()}


@contextlib.contextmanager
def item_files(store: Store, shard: int, shards: int) -> Iterator[dict[str, pathlib.Path]]:
    """Yields a local file of the items of each split of a shard, train first.

    Raises ValueError where the examples were made by a version that wrote none.
    """
    with contextlib.ExitStack() as stack:
        paths = {}
        for split in SPLITS:
            name = _items_file(split, shard, shards)
            if not store.exists(name):
                raise ValueError(f"{store.uri} must hold {name}: its examples are of another version, ingest again.")
            paths[split] = stack.enter_context(fetched(store, name))
        yield paths


def hold_out_all(store: Store, shard: int, shards: int) -> None:
    """Moves the items of a shard's train split to its eval split, of which no item is another."""
    train, held_out = (_items_file(split, shard, shards) for split in SPLITS)
    with fetched(store, train) as path, stored(store, held_out) as copy:
        shutil.copyfile(path, copy)
    with stored(store, train) as path, ItemWriter(path, indexed=False):
        # None is left.
        pass
