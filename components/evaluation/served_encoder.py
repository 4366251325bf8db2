"""The encoder that is being served, read from the serving root by `CURRENT`: what a new one must not be worse than."""

import contextlib
import dataclasses
import logging
import pathlib
import tempfile
from collections.abc import Iterator

import tensorflow as tf

from components.evaluation.exported_encoder import EncoderError, ExportedEncoder
from serving.release import layout
from serving.release.manifest import Manifest, ManifestError
from serving.storage import Store, open_store

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class ServedEncoder:
    """name: for people. encoder: None where it could not be loaded, and then problem says why."""

    name: str
    encoder: ExportedEncoder | None
    problem: str | None = None


@contextlib.contextmanager
def served_encoder(serving_root: str) -> Iterator[ServedEncoder | None]:
    """Yields the served encoder, or None where nothing is served or `serving_root` is empty.

    A release that is broken must not keep a new one from replacing it: what can't be loaded is yielded as a problem.
    """
    store = open_store(serving_root) if serving_root else None
    if store is None or not store.exists(layout.CURRENT):
        yield None
        return
    release_id = store.read(layout.CURRENT).decode().strip()
    with tempfile.TemporaryDirectory() as scratch:
        yield _load(store, release_id, pathlib.Path(scratch))


def _load(store: Store, release_id: str, scratch: pathlib.Path) -> ServedEncoder:
    name = f"release {release_id}"
    try:
        manifest = Manifest.from_json(store.read(f"{layout.release_folder(release_id)}/{layout.MANIFEST}"))
        version = manifest.encoder.version
        name = f"encoder version {version} of release {release_id}"
        folder = _fetched(store, layout.encoder_folder(manifest.encoder.model, version), scratch)
        return ServedEncoder(name, ExportedEncoder(str(folder)))
    except (OSError, ManifestError, EncoderError, ValueError, tf.errors.OpError) as error:
        logger.warning("%s can't be compared with: %s", name, error)
        return ServedEncoder(name, None, f"{name} can't be loaded: {error}")


def _fetched(store: Store, folder: str, scratch: pathlib.Path) -> pathlib.Path:
    local = store.local_path(folder)
    if local is not None:
        return local
    for stat in store.files(folder):
        store.download(stat.path, scratch / stat.path)
    return scratch / folder
