"""Filters as messages and back; both the gateway and the client need them."""

from typing import Any

from lookalike.retrieval.v1 import retrieval_pb2
from serving import attributes
from serving.search import filters
from serving.search.filters import AllOf, AnyOf, Comparison, Filter, FilterError, Negated, Operator

_OPERATORS = {
    Operator.EQUAL: retrieval_pb2.OPERATOR_EQUAL,
    Operator.NOT_EQUAL: retrieval_pb2.OPERATOR_NOT_EQUAL,
    Operator.LESS: retrieval_pb2.OPERATOR_LESS,
    Operator.LESS_OR_EQUAL: retrieval_pb2.OPERATOR_LESS_OR_EQUAL,
    Operator.GREATER: retrieval_pb2.OPERATOR_GREATER,
    Operator.GREATER_OR_EQUAL: retrieval_pb2.OPERATOR_GREATER_OR_EQUAL,
    Operator.IN: retrieval_pb2.OPERATOR_IN,
}
_FIELDS = {
    "item_id": retrieval_pb2.ITEM_FIELD_ITEM_ID,
    "width": retrieval_pb2.ITEM_FIELD_WIDTH,
    "height": retrieval_pb2.ITEM_FIELD_HEIGHT,
}
_OPERATOR_OF = {number: operator for operator, number in _OPERATORS.items()}
_FIELD_OF = {number: name for name, number in _FIELDS.items()}


def to_message(filter_: Filter) -> Any:
    """Returns a Filter message."""
    if isinstance(filter_, Comparison):
        operand = {"field": _FIELDS[filter_.name]} if filter_.is_field else {"attribute": filter_.name}
        values = [attributes.to_message(value) for value in filter_.values]
        comparison = retrieval_pb2.Comparison(operator=_OPERATORS[filter_.operator], values=values, **operand)
        return retrieval_pb2.Filter(comparison=comparison)
    parts = [to_message(part) for part in filter_.filters]
    if isinstance(filter_, Negated):
        return retrieval_pb2.Filter(negated=parts[0])
    name = "all_of" if isinstance(filter_, AllOf) else "any_of"
    return retrieval_pb2.Filter(**{name: retrieval_pb2.FilterList(filters=parts)})


def from_message(message: Any) -> Filter:
    """Returns the filter in a Filter message.

    Raises FilterError, with the path of what is wrong: `filter.all_of.filters[1].comparison.values`.
    """
    return _Reader().read(message, "filter")


class _Reader:
    """Counts while it reads, so that a message of a million filters is refused before they are built."""

    def __init__(self) -> None:
        self._nodes = 0

    def read(self, message: Any, path: str) -> Filter:
        self._nodes += 1
        # Every node but a comparison may have one below it.
        if self._nodes > filters.MAX_COMPARISONS * filters.MAX_DEPTH:
            raise FilterError("filter", f"a filter must have at most {filters.MAX_COMPARISONS} comparisons.")
        kind = message.WhichOneof("kind")
        if kind is None:
            raise FilterError(path, "exactly one of comparison, all_of, any_of, negated must be set, got none.")
        below = f"{path}.{kind}"
        try:
            if kind == "comparison":
                return _comparison(message.comparison)
            if kind == "negated":
                return Negated(self.read(message.negated, below))
            parts = getattr(message, kind).filters
            read = tuple(self.read(part, f"{below}.filters[{i}]") for i, part in enumerate(parts))
            return AllOf(read) if kind == "all_of" else AnyOf(read)
        except FilterError as error:
            if error.part == "filter" or error.part.startswith("filter."):
                raise  # it has its whole path
            raise FilterError(f"{below}.{error.part}" if error.part else path, str(error)) from error


def _comparison(message: Any) -> Comparison:
    operand = message.WhichOneof("operand")
    if operand is None:
        raise FilterError("operand", "exactly one of attribute, field must be set, got none.")
    if message.operator not in _OPERATOR_OF:
        raise FilterError("operator", f"operator must be one of Operator's values, got {message.operator}.")
    if len(message.values) > filters.MAX_VALUES:
        raise FilterError("values", f"there must be at most {filters.MAX_VALUES} values, got {len(message.values)}.")
    for i, value in enumerate(message.values):
        if value.WhichOneof("kind") is None:
            raise FilterError(f"values[{i}]", "a value must be set, got none.")
    if operand == "field" and message.field not in _FIELD_OF:
        raise FilterError("field", f"field must be one of ItemField's values, got {message.field}.")
    return Comparison(
        name=_FIELD_OF[message.field] if operand == "field" else message.attribute,
        operator=_OPERATOR_OF[message.operator],
        values=tuple(attributes.from_message(value) for value in message.values),
        is_field=operand == "field",
    )
