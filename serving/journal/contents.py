"""The canonical bytes of upserted items, by their sha256, for as long as a release or the journal names them."""

import hashlib

from serving.release import layout
from serving.storage import Store


class ContentDamaged(ValueError):
    """Bytes that are not those their name says."""


class Contents:
    """The contents of a serving root."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def put(self, sha256: str, data: bytes) -> None:
        """Writes canonical bytes, also where they are there already: what is young is not pruned."""
        _check(self.path(sha256), sha256, data)
        self._store.write(self.path(sha256), data)

    def get(self, sha256: str) -> bytes:
        """Returns canonical bytes; raises FileNotFoundError, or ContentDamaged where they are others."""
        data = self._store.read(self.path(sha256))
        _check(self.path(sha256), sha256, data)
        return data

    def path(self, sha256: str) -> str:
        """Returns where they lie, relative to the serving root."""
        return layout.content_file(sha256)

    def delete(self, sha256: str) -> None:
        """Deletes canonical bytes; does nothing where there are none."""
        self._store.delete(self.path(sha256))


def _check(path: str, sha256: str, data: bytes) -> None:
    got = hashlib.sha256(data).hexdigest()
    if got != sha256:
        raise ContentDamaged(f"{path} holds {len(data)} bytes of sha256 {got}.")
