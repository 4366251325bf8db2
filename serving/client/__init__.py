"""A small typed client of the gateway."""

from serving.client.answers import Answer, Deleted, Embedding, Item, Neighbor, Release, Upserted
from serving.client.channel import Credentials
from serving.client.client import Client, NewItem, Query
from serving.client.failures import QueryFailed
from serving.client.gathering import GatheringClient
from serving.search.filter_language import FilterSyntaxError

__all__ = [
    "Answer",
    "Client",
    "Credentials",
    "Deleted",
    "Embedding",
    "FilterSyntaxError",
    "GatheringClient",
    "Item",
    "Neighbor",
    "NewItem",
    "Query",
    "QueryFailed",
    "Release",
    "Upserted",
]
