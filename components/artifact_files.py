"""Files of artifacts, wherever these lie: opened in place on a local disk, copied through one from an object store."""

import contextlib
import pathlib
import tempfile
import uuid
from collections.abc import Iterator

from serving.storage import Store, open_store


@contextlib.contextmanager
def fetched(store: Store, path: str) -> Iterator[pathlib.Path]:
    """Yields a local path at which the file `path` of `store` can be read (and mapped) within the context."""
    local = store.local_path(path)
    if local is not None:
        yield local
        return
    with tempfile.TemporaryDirectory() as folder:
        target = pathlib.Path(folder) / pathlib.PurePosixPath(path).name
        store.download(path, target)
        yield target


@contextlib.contextmanager
def stored(store: Store, path: str) -> Iterator[pathlib.Path]:
    """Yields a local path to write a file to; it becomes the file `path` of `store`, whole, when the context ends."""
    local = store.local_path(path)
    if local is not None:
        local.parent.mkdir(parents=True, exist_ok=True)
        # A worker that is killed leaves this behind, never half a file under the real name.
        beside = local.with_name(f".{local.name}.{uuid.uuid4().hex}.tmp")
        try:
            yield beside
            beside.replace(local)
        finally:
            beside.unlink(missing_ok=True)
        return
    with tempfile.TemporaryDirectory() as folder:
        target = pathlib.Path(folder) / pathlib.PurePosixPath(path).name
        yield target
        store.write(path, target.read_bytes())


@contextlib.contextmanager
def fetched_folder(uri: str) -> Iterator[pathlib.Path]:
    """Yields a local folder that holds all that lies below `uri`, within the context."""
    store = open_store(uri)
    local = store.local_path("")
    if local is not None:
        yield local
        return
    with tempfile.TemporaryDirectory() as folder:
        for file in list(store.files("")):
            store.download(file.path, pathlib.Path(folder) / file.path)
        yield pathlib.Path(folder)


@contextlib.contextmanager
def stored_folder(store: Store, path: str) -> Iterator[pathlib.Path]:
    """Yields an empty local folder to write to; its files are below `path` of `store` when the context ends."""
    local = store.local_path(path)
    if local is not None:
        local.mkdir(parents=True, exist_ok=True)
        yield local
        return
    with tempfile.TemporaryDirectory() as folder:
        yield pathlib.Path(folder)
        for file in sorted(pathlib.Path(folder).rglob("*")):
            if file.is_file():
                store.write(f"{path}/{file.relative_to(folder).as_posix()}", file.read_bytes())


@contextlib.contextmanager
def output_folder(uri: str) -> Iterator[pathlib.Path]:
    """Yields a local folder to write to; its files are below `uri` when the context ends."""
    parent, _, name = uri.rstrip("/").rpartition("/")
    with stored_folder(open_store(parent or "/"), name) as folder:
        yield folder
