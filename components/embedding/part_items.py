"""The items of a part: those that the base release keeps, then those that ingest has read."""

import dataclasses
import pathlib

import numpy as np
import numpy.typing as npt

from components.ingest.item_files import item_files
from components.ingest.notes import Kept
from components.reindex.base import Base, BaseItems
from serving.release.items import ItemWriter
from serving.storage import Store


def write_part(
    path: pathlib.Path, base: Base | None, kept: Kept, examples: Store, part: int, parts: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Writes a part's items. examples: the artifact that holds the new ones.

    Returns:
      order: int64 `[k]`, in which those that are kept come first.
      held_out: bool `[n]`, which of the new ones, after these, are in the eval split.
    """
    reworded = np.asarray(sorted(kept.attributes), np.int64)
    same = np.setdiff1d(np.arange(len(kept.places)), reworded)
    # Each shard of the base is opened once.
    same = same[np.argsort(kept.places[same, 0], kind="stable")]
    with ItemWriter(path, indexed=False) as writer:
        if base is not None:
            with BaseItems(base) as held:
                for file, rows in held.files(kept.places[same]):
                    writer.copy(file, rows)
                for at, item in zip(reworded.tolist(), held.items(kept.places[reworded]), strict=True):
                    writer.add(dataclasses.replace(item, attributes=kept.attributes[at]))
        with item_files(examples, part, parts) as files:
            counts = {split: writer.copy(file) for split, file in files.items()}
    held_out = np.repeat([split == "eval" for split in counts], list(counts.values()))
    return np.concatenate([same, reworded]), held_out
