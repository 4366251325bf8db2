"""What publishers and pruners that died have left behind. Only the holder of the lease may clean it up."""

import logging

from serving.release import layout
from serving.storage import Store

_logger = logging.getLogger(__name__)


def clean_debris(store: Store) -> None:
    """Deletes unfinished copies, encoders without a model and releases without a manifest.

    A whole encoder that no release names stays: the next release may take it up, and prune knows a grace period.
    """
    for folder in ("", layout.LEASE, layout.RELEASES, layout.ENCODERS):
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


def _clean(store: Store, folder: str) -> None:
    for name in store.clean(folder):
        _logger.warning("deleted %s/%s/%s, which somebody left unfinished", store.uri, folder, name)


def _delete(store: Store, folder: str) -> None:
    _logger.warning("deleting %s/%s, which somebody left unfinished", store.uri, folder)
    store.delete(folder)
