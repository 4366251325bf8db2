"""What publishers and pruners that died have left behind. Only the holder of the lease may clean it up."""

import logging
import math
import time

from serving.release import layout
from serving.storage import Store

_logger = logging.getLogger(__name__)

# Gateways write the journal, and runs contents and embeddings, without the lease: what is as old as this is nobody's.
_ABANDONED_SECONDS = 3600.0


def clean_debris(store: Store, now: float | None = None) -> None:
    """Deletes unfinished copies, encoders without a model and releases without a manifest.

    A whole encoder that no release names stays: the next release may take it up, and prune knows a grace period.
    now: seconds since the epoch.
    """
    bar = (time.time() if now is None else now) - _ABANDONED_SECONDS
    for folder in ("", layout.LEASE, layout.REINDEX, layout.RELEASES, layout.ENCODERS, layout.PURGES):
        _clean(store, folder)
    for model in store.folders(layout.ENCODERS):
        base = f"{layout.ENCODERS}/{model}"
        _clean(store, base)
        for version in store.folders(base):
            if not store.exists(f"{base}/{version}/{layout.SAVED_MODEL}"):
                _delete(store, f"{base}/{version}")
    for release in store.folders(layout.RELEASES):
        if not store.exists(f"{layout.RELEASES}/{release}/{layout.MANIFEST}"):
            _delete(store, f"{layout.RELEASES}/{release}")
    for shared in (layout.JOURNAL, layout.CONTENTS, layout.CACHES):
        for folder in (shared, *(f"{shared}/{name}" for name in store.folders(shared))):
            _clean(store, folder, before=bar)


def _clean(store: Store, folder: str, before: float = math.inf) -> None:
    for name in store.clean(folder, before=before):
        _logger.warning("deleted %s/%s/%s, which somebody left unfinished", store.uri, folder, name)


def _delete(store: Store, folder: str) -> None:
    _logger.warning("deleting %s/%s, which somebody left unfinished", store.uri, folder)
    store.delete(folder)
