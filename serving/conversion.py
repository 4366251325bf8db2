"""Messages of `lookalike.retrieval.v1` to the core's dataclasses, and back."""

from typing import Any

import numpy as np

from lookalike.retrieval.v1 import retrieval_pb2
from serving import attributes
from serving.release.items import Item
from serving.release.manifest import Manifest
from serving.retrieval import EncodeResult, ItemResult, Query, SearchResult


def to_query(request: Any) -> Query:
    """Returns the query of a SearchRequest; raises InvalidQuery."""
    kind = request.WhichOneof("query")
    return Query(
        k=request.k,
        image=request.image if kind == "image" else None,
        vector=np.array(request.vector.values, np.float32) if kind == "vector" else None,
        item_id=request.item_id if kind == "item_id" else None,
    )


def to_search_response(result: SearchResult) -> Any:
    """Returns a SearchResponse."""
    timings = retrieval_pb2.Timings(
        decode_seconds=result.timings.decode,
        encode_seconds=result.timings.encode,
        search_seconds=result.timings.search,
    )
    return retrieval_pb2.SearchResponse(
        neighbors=[retrieval_pb2.Neighbor(item=to_item(n.item), score=n.score) for n in result.neighbors],
        release_id=result.release_id,
        encoder_version=result.encoder_version,
        timings=timings,
    )


def to_encode_response(result: EncodeResult) -> Any:
    """Returns an EncodeResponse."""
    return retrieval_pb2.EncodeResponse(
        embedding=retrieval_pb2.Vector(values=result.embedding.tolist()),
        release_id=result.release_id,
        encoder_version=result.encoder_version,
    )


def to_item_response(result: ItemResult) -> Any:
    """Returns a GetItemResponse."""
    return retrieval_pb2.GetItemResponse(item=to_item(result.item), release_id=result.release_id)


def to_release_response(manifest: Manifest) -> Any:
    """Returns a GetReleaseResponse."""
    release = retrieval_pb2.Release(
        release_id=manifest.release_id,
        created_seconds=manifest.created,
        parent=manifest.parent or "",
        encoder_model=manifest.encoder.model,
        encoder_version=manifest.encoder.version,
        encoder_digest=manifest.encoder.digest,
        dimension=manifest.encoder.dimension,
        index_kind=manifest.index.kind,
        count=manifest.index.count,
    )
    return retrieval_pb2.GetReleaseResponse(release=release)


def to_item(item: Item) -> Any:
    """Returns an Item message."""
    return retrieval_pb2.Item(
        item_id=item.item_id,
        uri=item.uri,
        sha256=item.sha256,
        width=item.width,
        height=item.height,
        attributes={name: attributes.to_message(value) for name, value in item.attributes.items()},
        thumbnail=item.thumbnail,
    )
