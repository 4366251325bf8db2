"""What a client may ask: validated, without gRPC."""

import dataclasses

import numpy as np
import numpy.typing as npt

from serving.search import errors
from serving.search.view import Wanted

MAX_K = 1000
MAX_BATCH = 256
MAX_BATCH_K = 25_600
MAX_ITEMS = 1000
Vector = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class Query(Wanted):
    """Exactly one of image (a file's bytes), vector (float32 `[D]`, any length but 0) and item_id; k in [1, 1000].

    min_score: in [-1, 1]. collapse_score: in (0, 1], and not beside collapse_groups. release_id: the release to answer
    from; empty is the served one.
    """

    image: bytes | None = None
    vector: Vector | None = None
    item_id: str | None = None
    release_id: str = ""

    def __post_init__(self) -> None:
        if (self.image is not None) + (self.vector is not None) + (self.item_id is not None) != 1:
            given = [name for name in ("image", "vector", "item_id") if getattr(self, name) is not None]
            raise errors.InvalidQuery(
                "query", f"exactly one of image, vector, item_id must be set, got {', '.join(given) or 'none'}."
            )
        if not 1 <= self.k <= MAX_K:
            raise errors.InvalidQuery("k", f"k must be in [1, {MAX_K}], got {self.k}.")
        if self.item_id == "":
            raise errors.InvalidQuery("item_id", "item_id must not be empty.")
        # NaN is in no range.
        if self.min_score is not None and not -1 <= self.min_score <= 1:
            raise errors.InvalidQuery("min_score", f"min_score must be in [-1, 1], got {self.min_score:g}.")
        if self.collapse_score is not None and not 0 < self.collapse_score <= 1:
            raise errors.InvalidQuery(
                "collapse_score", f"collapse_score must be in (0, 1], got {self.collapse_score:g}."
            )
        if self.collapse_groups and self.collapse_score is not None:
            raise errors.InvalidQuery("collapse_groups", "collapse_groups may not be set beside collapse_score.")

    @property
    def plainest(self) -> bool:
        """Whether it asks for no more than the `k` nearest to an image or a vector."""
        return self.plain and self.min_score is None and self.item_id is None

    @property
    def plain(self) -> bool:
        """Whether it asks for no more than the nearest."""
        return self.filter is None and self.collapse_score is None and not self.collapse_groups


def check_batch(ks: list[int]) -> None:
    """Raises InvalidQuery where a batch of queries for so many neighbours each is too large, or empty."""
    if not 1 <= len(ks) <= MAX_BATCH:
        raise errors.InvalidQuery("requests", f"a batch must hold 1 to {MAX_BATCH} requests, got {len(ks)}.")
    total = sum(max(0, k) for k in ks)
    if total > MAX_BATCH_K:
        raise errors.InvalidQuery("requests", f"the k of a batch may sum up to {MAX_BATCH_K}, got {total}.")


def check_item_ids(item_ids: list[str]) -> None:
    """Raises InvalidQuery where so many items, or none, are asked for."""
    if not 1 <= len(item_ids) <= MAX_ITEMS:
        raise errors.InvalidQuery("item_ids", f"1 to {MAX_ITEMS} items can be asked for at once, got {len(item_ids)}.")
