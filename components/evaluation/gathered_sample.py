"""The sample that an encoder is measured on, in memory: pixels, and what each encoder makes of them."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from components.evaluation.exported_encoder import ExportedEncoder
from components.evaluation.metrics import Labels, Vectors
from components.evaluation.sample import SampledItem, SplitSample
from components.pixels import Pixels, decode_pixels


@dataclasses.dataclass(frozen=True)
class SampleLimits:
    """How much is measured. queries: from the eval split. database: images searched, queries among them.

    copies: images of which altered copies are made. pixel_bytes: of the sample's 8-bit pixels; it cuts `database`, of
    which queries are then at most a half. least: where the eval split holds fewer, as many are reconstructed and copied
    with the help of the train split.
    """

    queries: int = 2_000
    database: int = 10_000
    copies: int = 1_000
    pixel_bytes: int = 2**28
    seed: int = 20
    least: int = 50

    def __post_init__(self) -> None:
        if not 1 <= self.queries <= self.database:
            raise ValueError(f"queries must be in [1, {self.database}] (database), got {self.queries}.")
        if self.copies < 1 or self.pixel_bytes < 1:
            raise ValueError(f"copies and pixel_bytes must be at least 1, got {self.copies} and {self.pixel_bytes}.")


@dataclasses.dataclass(frozen=True)
class Gathered:
    """The sample in memory: N images. The first `queries` are the queries, the first `asked` were reconstructed.

    labels: int64 `[N]`, a number of its own for an image without one. images: canonical bytes of the first ones.
    """

    queries: int
    asked: int
    item_ids: tuple[str, ...]
    labels: Labels
    label_names: tuple[str | None, ...]
    images: tuple[bytes, ...]
    pixels: Pixels
    embeddings: dict[str, Vectors]
    pictures: Pixels | None
    errors: dict[str, Vectors]


def gather(
    encoders: dict[str, ExportedEncoder], train: SplitSample, evaluation: SplitSample, limits: SampleLimits
) -> Gathered:
    """Reads the sample once and asks every encoder (`embedding` is the one on trial) about each image of it."""
    queries = evaluation if evaluation.records else train
    if not queries.records:
        raise ValueError("there are no examples to evaluate an encoder on.")
    database = min(limits.database, max(1, limits.pixel_bytes // encoders["embedding"].info.shape.size))
    most = min(limits.queries, database if database == limits.database else max(1, database // 2))
    first = sorted(queries.chosen, key=lambda sha: queries.chosen[sha])[:most]
    others = sorted(set(train.chosen) - set(first), key=lambda sha: train.chosen[sha])[: database - len(first)]
    asked = min(max(len(first), limits.least), len(first) + len(others))
    collector = _Collector(encoders, first, others, asked, min(limits.copies, asked))
    for split, wanted in ((queries, first), (train, others)):
        for items in split.read(frozenset(wanted)):
            collector.add(items)
    return collector.gathered()


class _Collector:
    """Fills the arrays of Gathered, a batch at a time: the canonical bytes of most images are not kept."""

    def __init__(
        self,
        encoders: dict[str, ExportedEncoder],
        first: Sequence[str],
        others: Sequence[str],
        asked: int,
        copies: int,
    ) -> None:
        self._encoders = encoders
        self._rows = {sha: row for row, sha in enumerate([*first, *others])}
        self._queries, self._asked, self._copies = len(first), asked, copies
        count, shape = len(self._rows), encoders["embedding"].info.shape
        self._pixels = np.empty((count, shape.height, shape.width, shape.channels), np.uint8)
        self._embeddings = {n: np.empty((count, e.info.dimension), np.float32) for n, e in encoders.items()}
        self._errors = {n: np.empty(asked, np.float32) for n, e in encoders.items() if e.reconstructs}
        self._pictures = np.empty_like(self._pixels[:asked]) if "embedding" in self._errors else None
        self._labels: list[str | None] = [None] * count
        self._ids = [""] * count
        self._images = [b""] * self._copies

    def add(self, items: Sequence[SampledItem]) -> None:
        """Takes a batch in."""
        at = np.asarray([self._rows[item.sha256] for item in items])
        images = [item.image for item in items]
        self._pixels[at] = decode_pixels(images, self._encoders["embedding"].info.shape)
        for name, encoder in self._encoders.items():
            self._embeddings[name][at] = encoder.embed(images)
            if name in self._errors:
                drawn = at < self._asked
                wanted = [image for image, is_drawn in zip(images, drawn.tolist(), strict=True) if is_drawn]
                pictures, self._errors[name][at[drawn]] = encoder.reconstruct(wanted)
                if name == "embedding" and self._pictures is not None:
                    self._pictures[at[drawn]] = pictures
        for row, item in zip(at.tolist(), items, strict=True):
            self._labels[row], self._ids[row] = item.label, item.item_id
            if row < self._copies:
                self._images[row] = item.image

    def gathered(self) -> Gathered:
        """Returns what was taken in."""
        return Gathered(
            queries=self._queries,
            asked=self._asked,
            item_ids=tuple(self._ids),
            labels=_numbered(self._labels),
            label_names=tuple(self._labels),
            images=tuple(self._images),
            pixels=self._pixels,
            embeddings=self._embeddings,
            pictures=self._pictures,
            errors=self._errors,
        )


def _numbered(names: Sequence[str | None]) -> Labels:
    numbers = {name: number for number, name in enumerate(sorted({n for n in names if n is not None}))}
    # Without a label an image is in a class of its own: it neither asks nor answers.
    return np.asarray(
        [len(numbers) + row if name is None else numbers[name] for row, name in enumerate(names)], np.int64
    )
