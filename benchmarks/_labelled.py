"""Labelled collections to measure encoders on: canonical images, a train and a test part."""

import dataclasses
import gzip
import io
import pathlib

import numpy as np
import numpy.typing as npt
from PIL import Image

from components.pixels import PixelShape
from serving.images import canonicalize

_SUFFIXES = (".png", ".jpg", ".jpeg")


@dataclasses.dataclass(frozen=True)
class Part:
    """images: canonical bytes. labels: int64 `[N]`."""

    images: list[bytes]
    labels: npt.NDArray[np.int64]

    def first(self, count: int, seed: int = 0) -> "Part":
        """Returns `count` of them, drawn once and for all."""
        return self.divided(count, seed)[0]

    def divided(self, count: int, seed: int = 0) -> tuple["Part", "Part"]:
        """Returns `count` of them, drawn once and for all, and the rest."""
        order = np.random.default_rng(seed).permutation(len(self.images))
        chosen, rest = np.split(order, [count])
        return self._of(chosen), self._of(rest)

    def _of(self, rows: npt.NDArray[np.int64]) -> "Part":
        return Part([self.images[row] for row in rows], self.labels[rows])


@dataclasses.dataclass(frozen=True)
class Collection:
    """A collection with its standard split: the train part is the database, the test part asks."""

    name: str
    train: Part
    test: Part

    @property
    def shape(self) -> PixelShape:
        """The size of its images, which are all alike."""
        with Image.open(io.BytesIO(self.train.images[0])) as image:
            return PixelShape(image.height, image.width, 1 if image.mode == "L" else 3)


def read(folder: pathlib.Path) -> Collection:
    """Returns the collection in a folder: `train/<label>/...` and `test/<label>/...`, or gzipped IDX files."""
    if list(folder.glob("*-idx3-ubyte.gz")):
        return Collection(folder.name, _from_idx(folder, "train"), _from_idx(folder, "t10k"))
    names = sorted(path.name for path in (folder / "train").iterdir() if path.is_dir())
    return Collection(folder.name, _from_folder(folder / "train", names), _from_folder(folder / "test", names))


def split(folder: pathlib.Path, name: str, held_out: int, seed: int = 0) -> Collection:
    """Returns the collection in `<label>/...` with `held_out` images drawn as the test part."""
    names = sorted(path.name for path in folder.iterdir() if path.is_dir())
    test, train = _from_folder(folder, names).divided(held_out, seed)
    return Collection(name, train, test)


def _from_folder(folder: pathlib.Path, names: list[str]) -> Part:
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES)
    labels = [names.index(path.relative_to(folder).parts[0]) for path in files]
    return Part([canonicalize(path.read_bytes()).data for path in files], np.asarray(labels, np.int64))


def _from_idx(folder: pathlib.Path, part: str) -> Part:
    """Reads Y. LeCun's format: 16 bytes, then pixels; 8 bytes, then labels."""
    with gzip.open(folder / f"{part}-images-idx3-ubyte.gz") as file:
        head = np.frombuffer(file.read(16), ">i4")
        pixels = np.frombuffer(file.read(), np.uint8).reshape(head[1], head[2], head[3])
    with gzip.open(folder / f"{part}-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read()[8:], np.uint8).astype(np.int64)
    return Part([_png(image) for image in pixels], labels)


def _png(pixels: npt.NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
