"""How the parameters of an index are found."""

import dataclasses
import json
from typing import Any

from serving.index import SearchOptions

METHODS = ("search", "rule")


@dataclasses.dataclass(frozen=True)
class TuningOptions:
    """method: `search` on held-out queries, or a `rule` of thumb. target: of recall@10, in (0, 1].

    bytes_per_item: the most memory that an item may take, 0 for any. search: what is tried.
    """

    method: str = "search"
    target: float = 0.995
    bytes_per_item: int = 0
    search: SearchOptions = dataclasses.field(default_factory=SearchOptions)

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"tuning.method must be one of {METHODS}, got {self.method!r}.")
        if not 0.0 < self.target <= 1.0:
            raise ValueError(f"tuning.target must be in (0, 1], got {self.target}.")
        if type(self.bytes_per_item) is not int or self.bytes_per_item < 0:
            raise ValueError(f"tuning.bytes_per_item must be a whole number, at least 0, got {self.bytes_per_item!r}.")

    @property
    def limit(self) -> int | None:
        """The most memory that an item may take, or None for any."""
        return self.bytes_per_item or None

    def to_dict(self) -> dict[str, Any]:
        """Returns the options as a JSON value."""
        return dict(json.loads(json.dumps(dataclasses.asdict(self))))

    @classmethod
    def from_json(cls, text: str) -> "TuningOptions":
        """Returns the options in a JSON object, the defaults for those that it leaves out, or for nothing at all."""
        value = json.loads(text or "{}")
        if not isinstance(value, dict):
            raise ValueError(f"tuning must be a JSON object, got {text!r}.")
        search = value.get("search", {})
        for given, kind, name in ((value, cls, "tuning"), (search, SearchOptions, "tuning.search")):
            unknown = sorted(given.keys() - {field.name for field in dataclasses.fields(kind)})
            if unknown:
                raise ValueError(f"unknown options of {name}: {', '.join(unknown)}.")
        listed: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in search.items()}
        return cls(**{**value, "search": SearchOptions(**listed)})
