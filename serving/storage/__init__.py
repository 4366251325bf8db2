"""Where a serving root lies: a local folder or an object store, behind one small interface."""

import os
import pathlib

from serving.storage.local_store import LocalStore
from serving.storage.object_store import ObjectStore
from serving.storage.store import Stat, Store

__all__ = ["LocalStore", "ObjectStore", "Stat", "Store", "open_store"]


def open_store(uri: str | os.PathLike[str]) -> Store:
    """Returns the store at a local path or at any URL that fsspec knows (`gs://`, `s3://`, `memory://`).

    Raises ValueError for another URL, and where the package that speaks to such a store is not installed.
    """
    text = os.fspath(uri)
    if "://" not in text or text.startswith("file://"):
        return LocalStore(pathlib.Path(text.removeprefix("file://")))
    return ObjectStore(text)
