"""Which items may be in an answer: a tree of comparisons, each of them one SQL query over the items of a release.

An item matches a comparison where it has the attribute, of the same kind as the value (a number, text, or a boolean),
and the comparison holds. So an item without the attribute, or with one of another kind, matches no comparison, not even
`!=`. `Negated` is the complement of its filter. Integers and floats are one kind; booleans have no order.
"""

import dataclasses
import enum
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

Value = str | int | float | bool
Mask = npt.NDArray[np.bool_]

MAX_DEPTH = 16
MAX_COMPARISONS = 64
MAX_VALUES = 1024
MAX_TEXT = 4096  # characters of a name or value
# What every item has, and of which kind it is. These names go into SQL as they stand; nothing that a client says does.
FIELDS: dict[str, type] = {"item_id": str, "width": int, "height": int}

_KINDS = {
    bool: "boolean = 1",
    int: "boolean = 0 AND typeof(value) IN ('integer', 'real')",
    str: "boolean = 0 AND typeof(value) = 'text'",
}


class FilterError(ValueError):
    """A filter that can't be. part: what is wrong in it, as the request names it; empty for all of it."""

    def __init__(self, part: str, message: str) -> None:
        super().__init__(message)
        self.part = part


class Operator(enum.Enum):
    """How an item's value is compared with the filter's; the value is the SQL."""

    EQUAL = "="
    NOT_EQUAL = "!="
    LESS = "<"
    LESS_OR_EQUAL = "<="
    GREATER = ">"
    GREATER_OR_EQUAL = ">="
    IN = "IN"


_ANY_KIND = (Operator.EQUAL, Operator.NOT_EQUAL, Operator.IN)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """An item's attribute, or one of its own FIELDS, compared with a value; with at least one for Operator.IN."""

    name: str
    operator: Operator
    values: tuple[Value, ...]
    is_field: bool = False

    def __post_init__(self) -> None:
        operand = "field" if self.is_field else "attribute"
        if self.is_field and self.name not in FIELDS:
            raise FilterError(operand, f"field must be one of {', '.join(FIELDS)}, got {self.name!r}.")
        if not 1 <= len(self.name) <= MAX_TEXT:
            raise FilterError(operand, f"an attribute's name must have 1 to {MAX_TEXT} characters.")
        if not self.values or (len(self.values) > 1 and self.operator is not Operator.IN):
            wanted = "at least one value" if self.operator is Operator.IN else "exactly one value"
            raise FilterError("values", f"{self.operator.value} takes {wanted}, got {len(self.values)}.")
        _check_limit("number of values", MAX_VALUES, len(self.values))
        for value in self.values:
            self._check(value)

    def to_sql(self) -> tuple[str, list[str | int | float]]:
        """Returns a query that selects the column `row` of the items that match, and its parameters."""
        if self.is_field:
            return f"SELECT row FROM items WHERE {self._compared(self.name, self.values)}", list(self.values)
        kinds = {kind: [value for value in self.values if _kind(value) is kind] for kind in _KINDS}
        of_kind = [
            f"({_KINDS[kind]} AND {self._compared('value', values)})" for kind, values in kinds.items() if values
        ]
        parameters = [value for values in kinds.values() for value in values]
        return f"SELECT row FROM attributes WHERE name = ? AND ({' OR '.join(of_kind)})", [self.name, *parameters]

    def _compared(self, column: str, values: Sequence[Value]) -> str:
        marks = f"({', '.join('?' * len(values))})" if self.operator is Operator.IN else "?"
        return f"{column} {self.operator.value} {marks}"

    def _check(self, value: Value) -> None:
        if isinstance(value, float) and math.isnan(value):
            raise FilterError("values", "a value must not be NaN: it compares with nothing.")
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise FilterError("values", f"a whole number must fit into 64 bits, got {value}.")
        if isinstance(value, str) and len(value) > MAX_TEXT:
            raise FilterError("values", f"a value must have at most {MAX_TEXT} characters, got {len(value)}.")
        if isinstance(value, bool) and self.operator not in _ANY_KIND:
            raise FilterError("operator", f"a boolean has no order: {self.operator.value} can't compare it.")
        if self.is_field and _kind(value) is not FIELDS[self.name]:
            kind = "text" if FIELDS[self.name] is str else "a number"
            raise FilterError("values", f"{self.name} is {kind}, and can't be compared with {value!r}.")


@dataclasses.dataclass(frozen=True)
class AllOf:
    """Matches what each of its filters matches; at least one."""

    filters: tuple["Filter", ...]

    def __post_init__(self) -> None:
        _check_tree(self)


@dataclasses.dataclass(frozen=True)
class AnyOf:
    """Matches what any of its filters matches; at least one."""

    filters: tuple["Filter", ...]

    def __post_init__(self) -> None:
        _check_tree(self)


@dataclasses.dataclass(frozen=True)
class Negated:
    """Matches every item that its filter does not match."""

    filter: "Filter"

    def __post_init__(self) -> None:
        _check_tree(self)

    @property
    def filters(self) -> tuple["Filter", ...]:
        """Its filter."""
        return (self.filter,)


Filter = Comparison | AllOf | AnyOf | Negated


def matches(filter_: Filter, where: Callable[[str, Sequence[str | int | float]], Mask]) -> Mask:
    """Returns bool `[N]`: which items match.

    where: the same for one SQL query, with its parameters.
    """
    if isinstance(filter_, Comparison):
        return where(*filter_.to_sql())
    masks = [matches(part, where) for part in filter_.filters]
    if isinstance(filter_, Negated):
        return ~masks[0]
    return np.logical_and.reduce(masks) if isinstance(filter_, AllOf) else np.logical_or.reduce(masks)


def key(filter_: Filter) -> str:
    """Returns what two filters share only if they match the same items of any release: 1, 1.0 and true differ here."""
    return repr(filter_)


def _kind(value: Value) -> type:
    return bool if isinstance(value, bool) else str if isinstance(value, str) else int


def _check_tree(filter_: AllOf | AnyOf | Negated) -> None:
    if not filter_.filters:
        raise FilterError("filters", "there must be at least one filter in it.")
    comparisons = list(_comparisons(filter_))
    _check_limit("depth", MAX_DEPTH, _depth(filter_))
    _check_limit("number of comparisons", MAX_COMPARISONS, len(comparisons))
    _check_limit("number of values", MAX_VALUES, sum(len(comparison.values) for comparison in comparisons))


def _check_limit(name: str, limit: int, value: int) -> None:
    if value > limit:
        raise FilterError("", f"a filter's {name} must be at most {limit}, got {value}.")


def _comparisons(filter_: Filter) -> Iterator[Comparison]:
    if isinstance(filter_, Comparison):
        yield filter_
    else:
        for part in filter_.filters:
            yield from _comparisons(part)


def _depth(filter_: Filter) -> int:
    return 1 if isinstance(filter_, Comparison) else 1 + max(_depth(part) for part in filter_.filters)
