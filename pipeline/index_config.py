"""How the index is built, and how its parameters are found."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from pipeline.option_checks import require, require_one_of
from serving.index.parameters import KINDS


@dataclasses.dataclass(frozen=True)
class DuplicatesConfig:
    """What the build groups as near-duplicates: where hashes of what images look like differ in at most `hamming` of 64
    bits, and the cosine of their embeddings is at least `cosine`."""

    enabled: bool = True
    hamming: int = 10
    cosine: float = 0.9

    def __post_init__(self) -> None:
        require(0 <= self.hamming < 64, f"index.duplicates.hamming must be in [0, 64), got {self.hamming}.")
        require(-1.0 <= self.cosine <= 1.0, f"index.duplicates.cosine must be in [-1, 1], got {self.cosine}.")


@dataclasses.dataclass(frozen=True)
class TuningConfig:
    """How parameters of the index are found that aren't given.

    method: `search` on held-out queries, or a `rule` of thumb. sample: at most so many items of a shard are indexed.
    queries: at most so many held-out ones are asked. leaves: how many to try, times the root of the items, ascending.
    hash_dimensions: which to try for hashing. spill: whether to try SOAR. seed: of sample and queries.
    """

    method: str = "search"
    sample: int = 100_000
    queries: int = 1000
    leaves: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0, 4.0)
    hash_dimensions: tuple[int, ...] = (1, 2)
    spill: bool = True
    seed: int = 1

    def __post_init__(self) -> None:
        require_one_of("index.tuning.method", self.method, ("search", "rule"))
        for name, least in (("sample", 1000), ("queries", 10)):
            value = getattr(self, name)
            require(value >= least, f"index.tuning.{name} must be at least {least}, got {value}.")
        ascending = bool(self.leaves) and self.leaves == tuple(sorted(self.leaves)) and self.leaves[0] > 0
        require(ascending, f"index.tuning.leaves must be ascending numbers above 0, got {list(self.leaves)}.")
        least = min(self.hash_dimensions, default=1)
        require(least >= 1, f"index.tuning.hash_dimensions must be at least 1, got {least}.")


@dataclasses.dataclass(frozen=True)
class IndexConfig:
    """How the index is built. kind: `auto` chooses by the number of items. parameters: see serving.index.

    recall_target: of recall@10 on the largest shard, which the parameters are searched for; it lies above min_recall,
    because other queries may be harder. bytes_per_item: the most memory that an item may take in a gateway, 0 for any.
    """

    shards: int = 1
    kind: str = "auto"
    parameters: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    min_recall: float = 0.99
    recall_target: float = 0.995
    bytes_per_item: int = 0
    tuning: TuningConfig = dataclasses.field(default_factory=TuningConfig)
    duplicates: DuplicatesConfig = dataclasses.field(default_factory=DuplicatesConfig)

    def __post_init__(self) -> None:
        kinds = ("auto", *KINDS)
        require(self.kind in kinds, f"index.kind must be one of {kinds}, got {self.kind!r}.")
        require(self.shards >= 1, f"index.shards must be at least 1, got {self.shards}.")
        require(0.0 <= self.min_recall <= 1.0, f"index.min_recall must be in [0, 1], got {self.min_recall}.")
        target = self.recall_target
        require(0.0 < target <= 1.0, f"index.recall_target must be in (0, 1], got {target}.")
        above = self.min_recall <= target
        require(above, f"index.recall_target must be at least index.min_recall, got {target} and {self.min_recall}.")
        require(self.bytes_per_item >= 0, f"index.bytes_per_item must be at least 0, got {self.bytes_per_item}.")
