"""Requests to begin fuzzing with: of every method, and with every field. A byte for the method comes first."""

from typing import Any

from benchmarks._malformed import encoded, noise
from lookalike.retrieval.v1 import retrieval_pb2 as messages

# In the order of benchmarks/_fuzz_requests.py.
_REQUESTS = (
    messages.SearchRequest,
    messages.BatchSearchRequest,
    messages.EncodeRequest,
    messages.GetItemRequest,
    messages.BatchGetItemsRequest,
    messages.GetReleaseRequest,
    messages.ListReleasesRequest,
)
_ITEM = "1/image-000001.png"


def requests() -> list[bytes]:
    """Returns the inputs."""
    searches = _searches()
    found: list[Any] = [
        *searches,
        messages.BatchSearchRequest(requests=searches[:5]),
        messages.BatchSearchRequest(requests=searches[5:], release_id="20260101T000000Z-1"),
        messages.EncodeRequest(image=_image()),
        messages.GetItemRequest(item_id=_ITEM, thumbnail=True),
        messages.BatchGetItemsRequest(item_ids=[_ITEM, "none", ""], thumbnails=True),
        messages.GetReleaseRequest(),
        messages.GetReleaseRequest(release_id="20260101T000000Z-1"),
        messages.ListReleasesRequest(page_size=2),
        messages.ListReleasesRequest(page_size=-1, page_token="abc"),
    ]
    return [bytes([_REQUESTS.index(type(message))]) + message.SerializeToString() for message in found]


def _image() -> bytes:
    return encoded(noise(8, 8, 1), "PNG")


def _searches() -> list[Any]:
    vector = messages.Vector(values=[0.1 * i for i in range(64)])
    odd = messages.Vector(values=[float("nan"), float("inf"), 1e38, -0.0] * 16)
    return [
        messages.SearchRequest(image=_image(), k=3),
        messages.SearchRequest(vector=vector, k=10),
        messages.SearchRequest(item_id=_ITEM, k=1),
        messages.SearchRequest(vector=odd, k=10),
        messages.SearchRequest(vector=vector, k=1000, min_score=0.5, collapse_score=0.9),
        messages.SearchRequest(item_id=_ITEM, k=5, release_id="20260101T000000Z-1"),
        *(messages.SearchRequest(vector=vector, k=5, filter=condition) for condition in _filters()),
    ]


def _filters() -> list[Any]:
    values = [
        messages.AttributeValue(string_value="3"),
        messages.AttributeValue(int_value=7),
        messages.AttributeValue(double_value=0.5),
        messages.AttributeValue(bool_value=True),
    ]
    compared = [
        messages.Filter(comparison=messages.Comparison(attribute="label", operator=operator, values=[value]))
        for operator in messages.Operator.values()
        for value in values
    ]
    field = messages.Comparison(field=messages.ITEM_FIELD_WIDTH, operator=messages.OPERATOR_IN, values=values)
    nested = messages.Filter(negated=compared[0])
    for _ in range(20):
        nested = messages.Filter(all_of=messages.FilterList(filters=[nested, compared[1]]))
    return [
        *compared,
        messages.Filter(comparison=field),
        messages.Filter(any_of=messages.FilterList(filters=compared)),
        messages.Filter(all_of=messages.FilterList()),
        messages.Filter(),
        nested,
    ]
