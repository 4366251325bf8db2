"""A serving root in a local folder, or on a volume that is mounted as one."""

import contextlib
import errno
import math
import os
import pathlib
import re
import shutil
import uuid
from collections.abc import Iterator

from serving.storage.store import Stat

# What a LocalStore has not finished writing or deleting. Never an integer, so TF Serving does not see it.
_UNFINISHED = re.compile(r"\..+\.[0-9a-f]{32}\.tmp")
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}


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
