"""How many altered copies the build groups with their originals, and how much else it takes for one.

  make bench NAME=duplicates IMAGES=photos/          any folder of images; without it the demo's digits
  python -m benchmarks.duplicates --images photos/ --family ours --minutes 5

Of some images there is a copy of each kind: encoded anew as JPEG, resized, brighter, noised, cropped, shifted, rotated;
of others there is none. An encoder is trained on images that are none of these, exported, and asked for all embeddings.
Recall: of the copies of a kind, those that are in the group of their original. Precision: of all pairs within groups,
those of one original. Images that were alike to begin with count against it: the sets that are used here hold some.
`candidates`: pairs whose hashes share a byte and differ in few bits. The row of the defaults is checked against the
Beam steps themselves, which are timed. Writes results/duplicates-<folder>.json.
"""

import dataclasses
import hashlib
import io
import itertools
import json
import pathlib
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageEnhance

from benchmarks._labelled import Collection, Part
from benchmarks._results import Goal, arguments, digits, report
from benchmarks._trained import train
from components.duplicates.buckets import BANDS, band, distinct_pairs, near_pairs, turned
from components.duplicates.find import FindDuplicates
from components.duplicates.flow import GroupingOptions, PartGroups
from components.duplicates.groups import Group, Pair, find_groups
from components.duplicates.options import DuplicateOptions
from components.duplicates.perceptual_hash import perceptual_hashes
from components.embedding import parts as embedding_parts
from components.embedding.parts import EmbeddingsReport
from components.evaluation.altered_copies import altered_copy
from components.evaluation.metrics import normalize
from pipeline import config as configuration
from serving.images import canonicalize
from serving.release import layout
from serving.release.items import Item, write_items

SEED = 20
PARTS = 8
KINDS = ("jpeg", "resize", "brightness", "noise", "crop", "shift", "rotation")
HAMMING = (0, 4, 6, 8, 10, 12)
COSINE = (-1.0, 0.8, 0.9, 0.95, 0.98)
DEFAULTS = DuplicateOptions()
_SUFFIXES = (".png", ".jpg", ".jpeg")
_SIDE = 512
_RESIZED, _BRIGHTER = 0.75, 1.2


@dataclasses.dataclass(frozen=True)
class Collected:
    """names: `<number>` of an original or what has no copy, `<number> <kind>` of a copy. vectors: `[N, D]`."""

    names: list[str]
    images: list[bytes]
    vectors: npt.NDArray[np.float32]

    @property
    def contents(self) -> list[str]:
        """The sha256 of each."""
        return [hashlib.sha256(image).hexdigest() for image in self.images]


def copy(data: bytes, kind: str, seed: int) -> bytes:
    """Returns an altered copy, canonical."""
    if kind not in ("resize", "brightness"):
        return altered_copy(data, kind, seed=seed, side=_SIDE)
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(data)) as image:
        if kind == "resize":
            size = tuple(max(1, round(length * _RESIZED)) for length in image.size)
            image.resize(size, Image.Resampling.BICUBIC).save(buffer, "PNG")
        else:
            ImageEnhance.Brightness(image).enhance(_BRIGHTER).save(buffer, "PNG")
    return buffer.getvalue()


def candidates(hashes: Any, known: Any, order: Any, hamming: int) -> npt.NDArray[np.int64]:
    """Returns pairs of rows, int64 `[P, 2]`, as the steps of the build find them."""
    rows = np.flatnonzero(known)
    found = [np.zeros((0, 2), np.int64)]
    for number in range(BANDS):
        values, ahead = band(hashes[rows], number), turned(hashes[rows], number)
        for value in np.unique(values).tolist():
            places = np.flatnonzero(values == value)
            found.append(rows[places[near_pairs(ahead[places], order[rows][places], hamming)]])
    return distinct_pairs(np.concatenate(found))


def grouped(collected: Collected, pairs: npt.NDArray[np.int64], cosine: float) -> list[Group]:
    """Returns the groups of candidate pairs whose cosine is enough."""
    contents, vectors = collected.contents, collected.vectors
    cosines = np.einsum("ij,ij->i", vectors[pairs[:, 0]], vectors[pairs[:, 1]])
    items: dict[str, list[str]] = {}
    for name, content in zip(collected.names, contents, strict=True):
        items.setdefault(content, []).append(name)
    near = [
        Pair(contents[a], contents[b], value)
        for (a, b), value in zip(pairs.tolist(), cosines.tolist(), strict=True)
        if value >= cosine - 1e-6 and contents[a] != contents[b]
    ]
    return find_groups(items, near)


def measure(groups: Sequence[Group], copied: int) -> dict[str, float]:
    """Returns precision, recall, and the recall of each kind, in [0, 1]."""
    right = pairs = 0
    found = dict.fromkeys(KINDS, 0)
    for group in groups:
        originals: dict[str, list[str]] = {}
        for name in group.items:
            originals.setdefault(name[:6], []).append(name[7:])
        pairs += len(group.items) * (len(group.items) - 1) // 2
        right += sum(len(some) * (len(some) - 1) // 2 for some in originals.values())
        for some in originals.values():
            for kind in some if "" in some else ():
                if kind:
                    found[kind] += 1
    recalls = {kind: count / copied for kind, count in found.items()}
    return {
        "groups": len(groups),
        "precision": right / pairs if pairs else 1.0,
        "recall": sum(recalls.values()) / len(KINDS),
        **recalls,
    }


def run_steps(collected: Collected, folder: pathlib.Path) -> tuple[set[tuple[str, ...]], float]:
    """Returns the groups that the Beam steps find by the defaults, as sorted names, and how many seconds they took."""
    numbers: list[list[int]] = [[] for _ in range(PARTS)]
    for number, name in enumerate(collected.names):
        numbers[layout.shard_of(name, PARTS)].append(number)
    contents = collected.contents
    for part, some in enumerate(numbers):
        np.save(folder / embedding_parts.vectors_file(part, PARTS), collected.vectors[some])
        items = [Item(collected.names[n], "", contents[n], 1, 1, {}, collected.images[n]) for n in some]
        write_items(folder / embedding_parts.items_file(part, PARTS), items)
    count, dimension = collected.vectors.shape
    told = EmbeddingsReport(tuple(map(len, numbers)), 0, dimension, count, count, count, 0, ())
    (folder / embedding_parts.REPORT).write_bytes(told.to_json())
    found = folder / "found"
    found.mkdir()
    options = GroupingOptions(str(folder), str(folder / "out"), PARTS, PARTS, DEFAULTS)
    arguments = configuration.PipelineConfig().beam_args
    began = time.perf_counter()
    with beam.Pipeline(argv=list(arguments)) as pipeline:
        _ = pipeline | FindDuplicates(options) | beam.Map(_keep, str(found))
    seconds = time.perf_counter() - began
    groups: dict[str, list[str]] = {}
    for part, some in enumerate(numbers):
        file = found / f"{part}.json"
        marked = json.loads(file.read_text()) if file.exists() else {}
        for row, group in marked.items():
            groups.setdefault(group, []).append(collected.names[some[int(row)]])
    return {tuple(sorted(names)) for names in groups.values()}, seconds


def _keep(mark: tuple[int, Any], folder: str) -> None:
    if isinstance(mark[1], PartGroups):
        pathlib.Path(folder, f"{mark[1].part}.json").write_text(json.dumps(mark[1].groups))


def main() -> None:
    flags = arguments(__doc__, family="of the encoder [convolutional; small: pca]", minutes="of training, at most [3]")
    full = flags.scale == "full"
    copied, others, trained = (2_000, 20_000, 5_000) if full else (100, 300, 200)
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch)
        source = flags.images or digits(folder)
        files = sorted(path for path in source.rglob("*") if path.suffix.lower() in _SUFFIXES)
        order = np.random.default_rng(SEED).permutation(len(files))
        # Of a smaller collection a third each.
        copied, trained = min(copied, len(files) // 3), min(trained, len(files) // 3)
        others = min(others, len(files) - copied - trained)
        chosen = [files[row] for row in order[: copied + others + trained]]
        images = [canonicalize(path.read_bytes()).data for path in chosen]
        learned = Part(images[copied + others :], np.zeros(trained, np.int64))
        family = flags.family or ("convolutional" if full else "pca")
        config = configuration.load(None, [f"encoder.family={family}"])
        collection = Collection("duplicates", learned, learned)
        shape = collection.shape
        sized = dataclasses.replace(config.encoder, height=shape.height, width=shape.width, channels=shape.channels)
        (folder / "encoder").mkdir()
        encoder, _ = train(
            dataclasses.replace(config, encoder=sized), collection, folder / "encoder", float(flags.minutes or 3)
        )
        names = [f"{number:06d}" for number in range(copied + others)]
        images = images[: copied + others]
        for number, kind in itertools.product(range(copied), KINDS):
            names.append(f"{number:06d} {kind}")
            images.append(copy(images[number], kind, number))
        collected = Collected(names, images, normalize(encoder.embed(images)))
        hashes, known = perceptual_hashes(images)
        order = np.array([int(content[:16], 16) for content in collected.contents], np.uint64)
        rows: list[dict[str, Any]] = []
        ours: set[tuple[str, ...]] = set()
        default: dict[str, Any] = {}
        for hamming in HAMMING:
            pairs = candidates(hashes, known, order, hamming)
            for cosine in COSINE:
                groups = grouped(collected, pairs, cosine)
                row = {"hamming": hamming, "cosine": cosine, "candidates": len(pairs), **measure(groups, copied)}
                rows.append(row)
                if (hamming, cosine) == (DEFAULTS.hamming, DEFAULTS.cosine):
                    default, ours = row, {group.items for group in groups}
        (folder / "embeddings").mkdir()
        found, seconds = run_steps(collected, folder / "embeddings")
    if found != ours:
        raise SystemExit(f"the steps found {len(found)} groups, {len(found ^ ours)} of them otherwise than here")
    goals = [
        Goal("precision by the defaults", default["precision"], 0.95),
        Goal("recall of JPEG, resized and brighter copies", min(default[kind] for kind in KINDS[:3]), 0.95),
    ]
    facts = {"family": family, "images": len(images), "copied": copied, "others": others, "trained_on": trained}
    print(f"{len(images):,} images, {copied:,} of them with a copy of each kind; the steps took {seconds:.1f} s")
    name = f"duplicates-{flags.images.name if flags.images else 'demo'}" if full else "duplicates"
    report(name, flags.scale, rows, goals if full else [], **facts, steps_seconds=seconds)


if __name__ == "__main__":
    main()
