"""The parameters that a search chose, and what else there was to choose from."""

import dataclasses
from typing import Any

from serving.index.parameters import IndexParameters
from serving.index.point import Point


@dataclasses.dataclass(frozen=True)
class Choice:
    """What a search found. parameters: for an index over all `count` embeddings.

    point: what they gave over the `sampled` ones that were indexed, where leaves are scaled to these. frontier: what
    else was the best in something, by recall. target: the recall@10 that was asked for. queries: how many were asked.
    seconds: what it all took.
    """

    parameters: IndexParameters
    point: Point
    frontier: tuple[Point, ...]
    target: float
    count: int
    sampled: int
    queries: int
    seconds: float

    @property
    def met(self) -> bool:
        """Whether the target was reached."""
        return self.point.recall >= self.target

    def to_dict(self) -> dict[str, Any]:
        """Returns the choice as a JSON value."""
        points = [point.to_dict() for point in self.frontier]
        value = {**dataclasses.asdict(self), "parameters": self.parameters.to_dict(), "frontier": points}
        return {**value, "point": self.point.to_dict()}

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> "Choice":
        """Returns the choice that `to_dict` wrote."""
        points = tuple(Point.from_dict(point) for point in value["frontier"])
        parameters, point = IndexParameters.from_dict(value["parameters"]), Point.from_dict(value["point"])
        return cls(**{**value, "parameters": parameters, "point": point, "frontier": points})
