"""Where a serving root lies: a local folder or an object store, behind one small interface."""

import contextlib
import dataclasses
import datetime
import errno
import inspect
import math
import os
import pathlib
import posixpath
import re
import shutil
import threading
import uuid
from collections.abc import Iterator
from typing import Any, Protocol

import fsspec

# What a LocalStore has not finished writing or deleting. Never an integer, so TF Serving does not see it.
_UNFINISHED = re.compile(r"\..+\.[0-9a-f]{32}\.tmp")
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}


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

    def put(self, source: pathlib.Path, path: str) -> None:
        """Copies the local file `source` to `path`, which appears whole."""

    def upload(self, source: pathlib.Path, folder: str, last: str) -> None:
        """Copies the local folder `source` to `folder`, which must not exist and appears whole.

        Locally it is copied beside its place and renamed. An object store has no rename of folders: there `last` (a
        path in `source`) is put after everything else, and whoever reads waits for it.
        """

    def download(self, path: str, target: pathlib.Path) -> None:
        """Copies a file to the local path `target`."""

    def local_path(self, path: str) -> pathlib.Path | None:
        """Returns where a file or folder can be opened and mapped in place; None where it must be downloaded."""

    def delete(self, path: str) -> None:
        """Deletes a file, or a folder with all that is in it; does nothing where there is none."""

    def delete_empty(self, folder: str) -> None:
        """Deletes a folder that holds nothing; does nothing where it holds anything, also when two race."""

    def clean(self, folder: str, *, before: float = math.inf) -> list[str]:
        """Deletes what writers that died have left right in a folder; returns its names.

        before: seconds since the epoch; what was touched later may still be being written.
        """


def open_store(uri: str | os.PathLike[str]) -> Store:
    """Returns the store at a local path or at any URL that fsspec knows (`gs://`, `s3://`, `memory://`).

    Raises ValueError for another URL, and where the package that speaks to such a store is not installed.
    """
    text = os.fspath(uri)
    if "://" not in text or text.startswith("file://"):
        return LocalStore(pathlib.Path(text.removeprefix("file://")))
    return ObjectStore(text)


class LocalStore:
    """A folder of a POSIX file system. Everything is written beside its place, synced, and renamed."""

    def __init__(self, root: pathlib.Path) -> None:
        self._root = root.absolute()
        self.uri = str(self._root)

    def read(self, path: str) -> bytes:
        return (self._root / path).read_bytes()

    def write(self, path: str, data: bytes) -> None:
        target = self._root / path
        beside = _beside(target)
        _write_synced(beside, data, "wb")
        beside.replace(target)
        _sync_folder(target.parent)

    def create(self, path: str, data: bytes) -> None:
        target = self._root / path
        while True:
            beside = _beside(target)
            try:
                _write_synced(beside, data, "wb")
                # A link fails where the name is taken, and the content is whole the moment the name appears.
                os.link(beside, target)
                break
            except FileNotFoundError:
                # Whoever holds the lease has cleaned up behind us, or deleted the folder while it was empty.
                continue
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                # Still exclusive, but after a crash the file may be there without its content.
                _write_synced(target, data, "xb")
                break
            finally:
                beside.unlink(missing_ok=True)
        _sync_folder(target.parent)

    def exists(self, path: str) -> bool:
        return (self._root / path).is_file()

    def files(self, folder: str) -> Iterator[Stat]:
        base = self._root / folder
        for file in sorted(base.rglob("*")):
            # Another process may delete while we list.
            with contextlib.suppress(FileNotFoundError):
                stat = file.stat()
                name = file.relative_to(self._root)
                if file.is_file() and not any(_UNFINISHED.fullmatch(part) for part in name.parts):
                    yield Stat(name.as_posix(), stat.st_size, stat.st_mtime)

    def folders(self, folder: str) -> list[str]:
        base = self._root / folder
        if not base.is_dir():
            return []
        return sorted(c.name for c in base.iterdir() if c.is_dir() and not _UNFINISHED.fullmatch(c.name))

    def put(self, source: pathlib.Path, path: str) -> None:
        target = self._root / path
        beside = _beside(target)
        shutil.copyfile(source, beside)
        _sync(beside)
        beside.replace(target)
        _sync_folder(target.parent)

    def upload(self, source: pathlib.Path, folder: str, last: str) -> None:
        if not (source / last).is_file():
            raise FileNotFoundError(f"{source / last} must be there to be put last.")
        target = self._root / folder
        if target.exists():
            raise FileExistsError(f"{target} is there already.")
        beside = _beside(target)
        # copyfile, not copy2: the files are as old as their upload, which is what a grace period counts from.
        shutil.copytree(source, beside, copy_function=shutil.copyfile)
        for path in [*beside.rglob("*"), beside]:
            _sync(path)
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
            # It goes at once for whoever looks, and as debris where we die on the way.
            beside = _beside(target)
            target.rename(beside)
            shutil.rmtree(beside)
        else:
            target.unlink(missing_ok=True)

    def delete_empty(self, folder: str) -> None:
        with contextlib.suppress(OSError):
            (self._root / folder).rmdir()

    def clean(self, folder: str, *, before: float = math.inf) -> list[str]:
        base = self._root / folder
        left = sorted(c for c in base.iterdir() if _UNFINISHED.fullmatch(c.name)) if base.is_dir() else []
        found = [path for path in left if _modified(path) < before]
        for path in found:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        return [path.name for path in found]


class ObjectStore:
    """A bucket, or anything else that fsspec opens by URL: single puts are atomic, folders are only names."""

    def __init__(self, url: str) -> None:
        self._files: Any
        try:
            self._files, self._root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise ValueError(f"{url} can't be opened here: {error}.") from error
        self.uri = url.rstrip("/")

    def read(self, path: str) -> bytes:
        return bytes(self._files.cat_file(self._at(path)))

    def write(self, path: str, data: bytes) -> None:
        self._files.pipe_file(self._at(path), data)

    def create(self, path: str, data: bytes) -> None:
        if not _creates_exclusively(self._files):
            raise NotImplementedError(f"{self.uri}: {type(self._files).__name__} can't create a file exclusively.")
        # memory:// looks first and then writes, so threads of this process would race.
        with _CREATING:
            self._files.pipe_file(self._at(path), data, mode="create")

    def exists(self, path: str) -> bool:
        self._files.invalidate_cache()
        return bool(self._files.isfile(self._at(path)))

    def files(self, folder: str) -> Iterator[Stat]:
        self._files.invalidate_cache()
        found = self._files.find(self._at(folder), detail=True)
        for name, info in sorted(found.items()):
            yield Stat(posixpath.relpath(name, self._root), int(info["size"]), self._modified(name, info))

    def folders(self, folder: str) -> list[str]:
        self._files.invalidate_cache()
        try:
            children = self._files.ls(self._at(folder), detail=True)
        except FileNotFoundError:
            return []
        return sorted(posixpath.basename(c["name"].rstrip("/")) for c in children if c["type"] == "directory")

    def put(self, source: pathlib.Path, path: str) -> None:
        self._files.put_file(str(source), self._at(path))

    def upload(self, source: pathlib.Path, folder: str, last: str) -> None:
        names = sorted(file.relative_to(source).as_posix() for file in source.rglob("*") if file.is_file())
        if last not in names:
            raise FileNotFoundError(f"{source / last} must be there to be put last.")
        if self.exists(f"{folder}/{last}"):
            raise FileExistsError(f"{self.uri}/{folder} is there already.")
        names.remove(last)
        for name in [*names, last]:
            self.put(source / name, f"{folder}/{name}")

    def download(self, path: str, target: pathlib.Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        self._files.get_file(self._at(path), str(target))

    def local_path(self, path: str) -> pathlib.Path | None:
        return None

    def delete(self, path: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._files.rm(self._at(path), recursive=True)

    def delete_empty(self, folder: str) -> None:
        # A folder is nothing but the names of what is in it.
        pass

    def clean(self, folder: str, *, before: float = math.inf) -> list[str]:
        # A put that died has left nothing.
        return []

    def _at(self, path: str) -> str:
        return f"{self._root.rstrip('/')}/{path}".rstrip("/")

    def _modified(self, name: str, info: dict[str, Any]) -> float:
        # Every file system has its own name for it: s3, gs and memory, in this order; else we ask once more.
        value = info.get("LastModified") or info.get("mtime") or info.get("updated") or info.get("created")
        if value is None:
            value = self._files.modified(name)
        if isinstance(value, str):
            value = datetime.datetime.fromisoformat(value.replace("Z", "+00:00"))
        return float(value.timestamp() if isinstance(value, datetime.datetime) else value)


_CREATING = threading.Lock()


def _creates_exclusively(files: Any) -> bool:
    # fsspec's own default looks whether the file is there and then writes: no good between machines.
    method = getattr(files, "_pipe_file", None) or files.pipe_file
    inherited = getattr(method, "__func__", None) is fsspec.AbstractFileSystem.pipe_file
    return not inherited and "mode" in inspect.signature(method).parameters


def _beside(target: pathlib.Path) -> pathlib.Path:
    _make_durably(target.parent)
    return target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")


def _make_durably(folder: pathlib.Path) -> None:
    """Makes a folder: it is there after a crash if what is written into it is."""
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for child in reversed(missing):
        try:
            child.mkdir(exist_ok=True)
        except FileExistsError:
            # A file is in the way. Whoever creates something would take it for his own file, made by another.
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(child)) from None
        _sync_folder(child.parent)


def _modified(path: pathlib.Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return math.inf  # finished, or cleaned, since we looked


def _write_synced(path: pathlib.Path, data: bytes, mode: str) -> None:
    with path.open(mode) as handle:
        handle.write(data)
        handle.flush()
        os.fsync(handle.fileno())


def _sync(path: pathlib.Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(folder: pathlib.Path) -> None:
    _sync(folder)  # a rename is durable only when its folder is
