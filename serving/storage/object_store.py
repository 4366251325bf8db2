"""A serving root in an object store, or in anything else that fsspec opens by URL."""

import contextlib
import datetime
import inspect
import math
import pathlib
import posixpath
import threading
from collections.abc import Iterator
from typing import Any

import fsspec

from serving.storage.store import Stat

_CREATING = threading.Lock()


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


def _creates_exclusively(files: Any) -> bool:
    # fsspec's own default looks whether the file is there and then writes: no good between machines.
    method = getattr(files, "_pipe_file", None) or files.pipe_file
    inherited = getattr(method, "__func__", None) is fsspec.AbstractFileSystem.pipe_file
    return not inherited and "mode" in inspect.signature(method).parameters
