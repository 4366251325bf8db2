"""Attribute values as messages and back; both the gateway and the client need them."""

from typing import Any

from lookalike.retrieval.v1 import retrieval_pb2


def to_message(value: str | int | float | bool) -> Any:
    """Returns an AttributeValue of the value's own type."""
    # A bool is an int in Python, so it is asked for first.
    for kind, field in ((bool, "bool_value"), (int, "int_value"), (float, "double_value")):
        if isinstance(value, kind):
            return retrieval_pb2.AttributeValue(**{field: value})
    return retrieval_pb2.AttributeValue(string_value=str(value))


def from_message(message: Any) -> str | int | float | bool:
    """Returns the value in an AttributeValue; an empty one is the empty string."""
    kind = message.WhichOneof("kind")
    return getattr(message, kind) if kind else ""
