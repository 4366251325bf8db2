"""A small typed client of the gateway."""

from serving.client.client import (
    Answer,
    Client,
    Credentials,
    Embedding,
    FilterSyntaxError,
    Item,
    Neighbor,
    Query,
    QueryFailed,
    Release,
)

__all__ = [
    "Answer",
    "Client",
    "Credentials",
    "Embedding",
    "FilterSyntaxError",
    "Item",
    "Neighbor",
    "Query",
    "QueryFailed",
    "Release",
]
