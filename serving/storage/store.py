"""What a serving root is to whoever reads or writes it, wherever it lies."""

import dataclasses
import math
import pathlib
from collections.abc import Iterator
from typing import Protocol


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
