"""Near-duplicates among results: which of them count as one."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from serving.index import Embeddings

# Cosines of equal embeddings differ from 1 by less, in float32.
ROUNDING = 1e-6
_BLOCK = 256

Owners = npt.NDArray[np.int64]


class Content(NamedTuple):
    """What tells whether two results count as one. group: an item's duplicate group, empty for none. sha256: of its
    canonical bytes, in hex."""

    group: str
    sha256: str


def collapse_groups(contents: Sequence[Content], most: int) -> Owners:
    """Returns for each result, best first, the result that stands for it, as `collapse` does.

    The best of each group stands for it; a result that has no group belongs to that of any other result of identical
    content. Results from several places may be merged, collapsed each for itself or not, and collapsed again.
    """
    groups = {content.sha256: content.group for content in contents if content.group}
    leaders: dict[tuple[str, str], int] = {}
    owners = np.arange(len(contents))
    for place, content in enumerate(contents):
        group = content.group or groups.get(content.sha256, "")
        key = (group, "" if group else content.sha256)
        if key not in leaders and len(leaders) == most:
            return owners[:place]
        owners[place] = leaders.setdefault(key, place)
    return owners


def collapse(vectors: Embeddings, cosine: float, most: int) -> Owners:
    """Returns for each result, best first, the result that stands for it: int64 `[m]`, m <= n.

    Best first, a result that lies within `cosine` of one that stands for itself is collapsed into the best such; any
    other stands for itself. Ends before the result that would be the (`most` + 1)-th to stand for itself.

    vectors: float32 `[n, D]`, of unit length.
    """
    bar = cosine - ROUNDING
    owners = np.arange(len(vectors))
    leaders: list[int] = []
    for start in range(0, len(vectors), _BLOCK):
        block = vectors[start : start + _BLOCK]
        if leaders:
            near = block @ vectors[leaders].T >= bar
            found = near.any(axis=1)
            owners[start : start + len(block)][found] = np.array(leaders)[near.argmax(axis=1)[found]]
        else:
            found = np.zeros(len(block), np.bool_)
        within = block @ block.T >= bar
        for i in np.flatnonzero(~found).tolist():
            if found[i]:
                continue
            if len(leaders) == most:
                return owners[: start + i]
            leaders.append(start + i)
            covered = within[i] & ~found
            covered[: i + 1] = False
            owners[start : start + len(block)][covered] = start + i
            found |= covered
    return owners
