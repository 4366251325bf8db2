"""What of the embeddings cache no kept release needs any more, and how its many small files become few."""

import collections
import logging
from collections.abc import Callable, Collection

import numpy as np

from serving.release import layout
from serving.release.cached_embeddings import (
    KEY_BYTES,
    Pair,
    delete_pair,
    list_orphans,
    list_pairs,
    read_pair,
    write_pair,
)
from serving.release.live_contents import LiveContents
from serving.storage import Store

_logger = logging.getLogger(__name__)

# So many files of one prefix are made one: every run that finds something new adds some.
_PAIRS = 8


def unused_caches(store: Store, digests: Collection[str], bar: float) -> list[str]:
    """Returns the folders of encoders that are not among `digests`, and that nobody wrote into after `bar`."""
    unused = []
    for name in store.folders(layout.CACHES):
        folder = layout.cache_folder(name)
        if not layout.is_sha256(name) or name in digests:
            continue
        if max((stat.modified for stat in store.files(folder)), default=0.0) <= bar:
            unused.append(folder)
    return unused


def compact_cache(
    store: Store,
    encoder_digest: str,
    live: LiveContents,
    bar: float,
    *,
    dry_run: bool = False,
    renew: Callable[[], None] = lambda: None,
) -> int:
    """Leaves out of an encoder's cache what no live content needs; returns how many embeddings that is.

    Files younger than `bar` stay as they are. A run that reads meanwhile misses some at worst, and computes them again.
    Killed at any time, every embedding that is needed is there once or twice.
    """
    groups: dict[str, list[Pair]] = collections.defaultdict(list)
    for pair in list_pairs(store, encoder_digest):
        if pair.modified <= bar:
            groups[pair.prefix].append(pair)
    for stat in list_orphans(store, encoder_digest):
        if stat.modified <= bar and not dry_run:
            store.delete(stat.path)
    dropped = 0
    for prefix, group in sorted(groups.items()):
        renew()
        dropped += _compact(store, encoder_digest, prefix, [pair.stem for pair in group], live, dry_run)
    return dropped


def _compact(
    store: Store, encoder_digest: str, prefix: str, stems: list[str], live: LiveContents, dry_run: bool
) -> int:
    read = [(stem, pair) for stem in stems if (pair := read_pair(store, stem)) is not None]
    damaged = len(stems) - len(read)
    kept = [(keys[row], vectors[row]) for _, (keys, vectors) in read for row in [live.holds([bytes(k) for k in keys])]]
    dropped = sum(len(keys) for _, (keys, _) in read) - sum(len(keys) for keys, _ in kept)
    if dry_run or not (dropped or damaged or len(stems) > _PAIRS):
        return dropped
    whole = {vectors.shape[1] for _, vectors in kept if len(vectors)}
    if len(whole) > 1:
        _logger.warning("cached embeddings of %s have %s dimensions: left as they are", encoder_digest, sorted(whole))
        return 0
    new = ""
    if whole:
        keys = np.concatenate([keys for keys, _ in kept if len(keys)])
        vectors = np.concatenate([vectors for _, vectors in kept if len(vectors)])
        _, first = np.unique(keys.view(f"V{KEY_BYTES}").ravel(), return_index=True)
        new = write_pair(store, encoder_digest, prefix, keys[first], vectors[first])
    for stem in stems:
        if stem != new:
            delete_pair(store, stem)
    return dropped
