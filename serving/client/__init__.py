"""A small typed client of the gateway."""

from serving.client.client import (
    Answer,
    Client,
    Credentials,
    Deleted,
    Embedding,
    FilterSyntaxError,
    Item,
    Neighbor,
    NewItem,
    Query,
    QueryFailed,
    Release,
    Upserted,
)

__all__ = [
    "Answer",
    "Client",
    "Credentials",
    "Deleted",
    "Embedding",
    "FilterSyntaxError",
    "Item",
    "Neighbor",
    "NewItem",
    "Query",
    "QueryFailed",
    "Release",
    "Upserted",
]
