"""Where a serving root lies: a local folder or an object store, behind one small interface."""

import contextlib
import dataclasses
import os
import pathlib
import posixpath
import shutil
import uuid
from collections.abc import Iterator
from typing import Any, Protocol

import fsspec


@dataclasses.dataclass(frozen=True)
class Stat:
    """One file. path: relative to the store's root. size: bytes. modified: seconds since the epoch."""

    path: str
    size: int
    modified: float


class Store(Protocol):
    """Files under one root, by relative path with `/`. What is not there raises FileNotFoundError."""

    uri: str

    def read(self, path: str) -> bytes:
        """Returns the content of a file."""

    def write(self, path: str, data: bytes) -> None:
        """Replaces a file as a whole: a reader sees the old content or the new, never a part."""

    def create(self, path: str, data: bytes) -> None:
        """Writes a file that must not exist; raises FileExistsError where it does, also when two race."""

    def exists(self, path: str) -> bool:
        """Returns whether a file is there."""

    def files(self, folder: str) -> Iterator[Stat]:
        """Yields every file below a folder, sorted by path; nothing where there is no such folder."""

    def folders(self, folder: str) -> list[str]:
        """Returns the names of the folders right below a folder, sorted; none where there is no such folder."""

    def upload(self, source: pathlib.Path, folder: str, last: str) -> None:
        """Copies the local folder `source` to `folder`, which appears whole.

        Locally it is copied beside its place and renamed. An object store has no rename of folders: there `last` (a
        path in `source`) is put after everything else, and whoever reads waits for it.
        """

    def download(self, path: str, target: pathlib.Path) -> None:
        """Copies a file to the local path `target`."""

    def local_path(self, path: str) -> pathlib.Path | None:
        """Returns where a file or folder can be opened and mapped in place; None where it must be downloaded."""

    def delete(self, path: str) -> None:
        """Deletes a file, or a folder with all that is in it; does nothing where there is none."""


def open_store(uri: str | os.PathLike[str]) -> Store:
    """Returns the store at a local path or at any URL that fsspec knows (`gs://`, `s3://`, `memory://`)."""
    text = os.fspath(uri)
    if "://" not in text or text.startswith("file://"):
        return LocalStore(pathlib.Path(text.removeprefix("file://")))
    return ObjectStore(text)


class LocalStore:
    """A folder of a POSIX file system."""

    def __init__(self, root: pathlib.Path) -> None:
        self._root = root.absolute()
        self.uri = str(self._root)

    def read(self, path: str) -> bytes:
        return (self._root / path).read_bytes()

    def write(self, path: str, data: bytes) -> None:
        target = self._root / path
        beside = self._written_beside(target, data)
        beside.replace(target)
        _sync_folder(target.parent)

    def create(self, path: str, data: bytes) -> None:
        target = self._root / path
        beside = self._written_beside(target, data)
        try:
            # A link fails where the name is taken, and the content is whole the moment the name appears.
            os.link(beside, target)
        finally:
            beside.unlink()
        _sync_folder(target.parent)

    def exists(self, path: str) -> bool:
        return (self._root / path).is_file()

    def files(self, folder: str) -> Iterator[Stat]:
        base = self._root / folder
        for file in sorted(base.rglob("*")):
            # Another process may delete while we list.
            with contextlib.suppress(FileNotFoundError):
                stat = file.stat()
                if file.is_file():
                    yield Stat(file.relative_to(self._root).as_posix(), stat.st_size, stat.st_mtime)

    def folders(self, folder: str) -> list[str]:
        base = self._root / folder
        return sorted(child.name for child in base.iterdir() if child.is_dir()) if base.is_dir() else []

    def upload(self, source: pathlib.Path, folder: str, last: str) -> None:
        target = self._root / folder
        # A name that is not an integer: TF Serving ignores it.
        beside = target.parent / f".{target.name}.{uuid.uuid4().hex}.tmp"
        beside.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, beside)
        for file in beside.rglob("*"):
            if file.is_file():
                with file.open("rb") as handle:
                    os.fsync(handle.fileno())
        beside.rename(target)
        _sync_folder(target.parent)

    def download(self, path: str, target: pathlib.Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self._root / path, target)

    def local_path(self, path: str) -> pathlib.Path | None:
        return self._root / path

    def delete(self, path: str) -> None:
        target = self._root / path
        if target.is_dir():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)

    def _written_beside(self, target: pathlib.Path, data: bytes) -> pathlib.Path:
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
        with beside.open("wb") as handle:
            handle.write(data)
            handle.flush()
            os.fsync(handle.fileno())
        return beside


class ObjectStore:
    """A bucket, or anything else that fsspec opens by URL: single puts are atomic, folders are only names."""

    def __init__(self, url: str) -> None:
        self._files: Any
        self._files, self._root = fsspec.core.url_to_fs(url)
        self.uri = url.rstrip("/")

    def read(self, path: str) -> bytes:
        return bytes(self._files.cat_file(self._at(path)))

    def write(self, path: str, data: bytes) -> None:
        self._make_parent(path)
        self._files.pipe_file(self._at(path), data)

    def create(self, path: str, data: bytes) -> None:
        self._make_parent(path)
        self._files.pipe_file(self._at(path), data, mode="create")

    def exists(self, path: str) -> bool:
        self._files.invalidate_cache()
        return bool(self._files.isfile(self._at(path)))

    def files(self, folder: str) -> Iterator[Stat]:
        self._files.invalidate_cache()
        found = self._files.find(self._at(folder), detail=True)
        for name, info in sorted(found.items()):
            modified = info.get("LastModified") or info.get("updated") or info.get("created") or info.get("mtime") or 0.0
            seconds = modified.timestamp() if hasattr(modified, "timestamp") else _number(modified)
            yield Stat(posixpath.relpath(name, self._root), int(info["size"]), seconds)

    def folders(self, folder: str) -> list[str]:
        self._files.invalidate_cache()
        try:
            children = self._files.ls(self._at(folder), detail=True)
        except FileNotFoundError:
            return []
        return sorted(posixpath.basename(c["name"].rstrip("/")) for c in children if c["type"] == "directory")

    def upload(self, source: pathlib.Path, folder: str, last: str) -> None:
        names = sorted(file.relative_to(source).as_posix() for file in source.rglob("*") if file.is_file())
        if last not in names:
            raise FileNotFoundError(f"{source / last} must be there to be put last.")
        names.remove(last)
        for name in [*names, last]:
            self._make_parent(f"{folder}/{name}")
            self._files.put_file(str(source / name), self._at(f"{folder}/{name}"))

    def download(self, path: str, target: pathlib.Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        self._files.get_file(self._at(path), str(target))

    def local_path(self, path: str) -> pathlib.Path | None:
        return None

    def delete(self, path: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._files.rm(self._at(path), recursive=True)

    def _at(self, path: str) -> str:
        return f"{self._root.rstrip('/')}/{path}".rstrip("/")

    def _make_parent(self, path: str) -> None:
        self._files.makedirs(posixpath.dirname(self._at(path)), exist_ok=True)


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return 0.0


def _sync_folder(folder: pathlib.Path) -> None:
    # A rename is durable only when its folder is.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
