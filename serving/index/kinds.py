"""Every kind of index by its name: how it is built, and how it is loaded."""

import pathlib
from collections.abc import Callable
from typing import NamedTuple

from serving.index.exact import ExactIndex
from serving.index.folder import read_parameters
from serving.index.hamming import build_hamming, load_hamming
from serving.index.index import Embeddings, Index
from serving.index.parameters import IndexParameters
from serving.index.scann_index import build_scann, load_scann


class Kind(NamedTuple):
    """What a kind of index is made by. load: from the folder that the index's `save` wrote."""

    build: Callable[[Embeddings, IndexParameters], Index]
    load: Callable[[pathlib.Path, Embeddings, IndexParameters], Index]


# Its names are parameters.KINDS; the tests hold them to that.
KIND_BY_NAME = {
    "exact": Kind(lambda embeddings, _: ExactIndex(embeddings), lambda _, embeddings, __: ExactIndex(embeddings)),
    "brute_force": Kind(build_scann, load_scann),
    "tree": Kind(build_scann, load_scann),
    "hamming": Kind(build_hamming, load_hamming),
}


def build_index(embeddings: Embeddings, parameters: IndexParameters) -> Index:
    """Returns an index over `embeddings`: float32 `[N, D]`, of unit length, N may be 0."""
    return KIND_BY_NAME[parameters.kind].build(embeddings, parameters)


def load_index(folder: pathlib.Path, embeddings: Embeddings, parameters: IndexParameters | None = None) -> Index:
    """Returns the index that `save` wrote into `folder`.

    Args:
      folder: what `save` wrote.
      embeddings: float32 `[N, D]`, what it was built from; mapped from a file (`np.load(mmap_mode="r")`) ScaNN reads
        that file.
      parameters: what the index must have been built with, where that is known.

    Raises:
      ValueError: where the folder holds another index than that.
    """
    found, shape = read_parameters(folder)
    if shape != embeddings.shape:
        raise ValueError(f"{folder.name} is an index of {shape} embeddings, got {embeddings.shape}.")
    if parameters is not None and found != parameters:
        raise ValueError(f"{folder.name} was built with {found}, expected {parameters}.")
    return KIND_BY_NAME[found.kind].load(folder, embeddings, found)
