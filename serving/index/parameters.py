"""How an index is built and searched."""

import dataclasses
from typing import Any

KINDS = ("exact", "brute_force", "tree", "hamming")
# Those that compare every embedding with every query.
EXACT_KINDS = ("exact", "brute_force")
SCORINGS = ("exact", "hash")
# ScaNN's own advice; measured here too: below it a tree is no faster, and brute force never misses.
BRUTE_FORCE_BELOW = 20_000


@dataclasses.dataclass(frozen=True)
class IndexParameters:
    """How an index is built and searched. kind: `exact`, `brute_force` (ScaNN's, as exact, faster), `tree`, `hamming`.

    `hamming` compares codes of bits, and scores the best `reorder` exactly. The rest is for `tree`. leaves: partitions.
    leaves_to_search: partitions a query looks into.
    scoring: inside the leaves, `exact` or `hash` (asymmetric hashing of hash_dimensions dimensions at a time, of which
    the best `reorder` are scored exactly). training_sample: how many embeddings the partitions are learned from.
    """

    kind: str = "brute_force"
    leaves: int = 1
    leaves_to_search: int = 1
    scoring: str = "exact"
    hash_dimensions: int = 2
    reorder: int = 100
    training_sample: int = 100_000

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {KINDS}, got {self.kind!r}.")
        if self.scoring not in SCORINGS:
            raise ValueError(f"scoring must be one of {SCORINGS}, got {self.scoring!r}.")
        for name in ("leaves", "leaves_to_search", "hash_dimensions", "reorder", "training_sample"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}.")
        if self.leaves_to_search > self.leaves:
            raise ValueError(f"leaves_to_search must be in [1, {self.leaves}], got {self.leaves_to_search}.")

    def to_dict(self) -> dict[str, Any]:
        """Returns the parameters as a JSON value."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> "IndexParameters":
        """Returns the parameters in `value`; raises ValueError where there are others than ours."""
        unknown = sorted(set(value) - {field.name for field in dataclasses.fields(cls)})
        if unknown:
            raise ValueError(f"unknown index parameters: {', '.join(unknown)}.")
        return cls(**value)


def choose_parameters(count: int, dimension: int) -> IndexParameters:
    """Returns parameters to begin with; what recall and speed they give is for IndexEvaluator to measure."""
    if count < BRUTE_FORCE_BELOW:
        return IndexParameters("brute_force")
    # ScaNN's rule of thumb for the leaves is the square root of the count. Within them exact scoring measured faster
    # than hashing at the same recall up to 60,000 embeddings of 64 dimensions.
    leaves = round(count**0.5)
    return IndexParameters("tree", leaves=leaves, leaves_to_search=max(1, leaves // 8))
