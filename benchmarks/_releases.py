"""Releases of synthetic embeddings, published by the real publisher. `N` items, `D` dimensions."""

import pathlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from benchmarks._encoders import MODEL
from serving.index import ExactIndex, IndexParameters, build_for, build_index, choose_parameters
from serving.release import layout
from serving.release.encoder_info import list_files, tree_digest
from serving.release.items import Item, write_items
from serving.release.manifest import GoldenQuery
from serving.release.publish import Published, publish
from serving.storage import open_store

Embeddings = npt.NDArray[np.float32]
DIMENSION = 64
RECALL = 0.95
RECALL_MARGIN = 0.005
# Embeddings of pictures lie in clusters, and near a space of fewer dimensions than they have.
_CLUSTERS = 200
_INNER = 24
_SPREAD = 0.8
_GOLDEN = 20


def make_embeddings(count: int, queries: int, seed: int = 0) -> tuple[Embeddings, Embeddings]:
    """Returns a collection's embeddings and those of queries that are not in it: float32 `[N, 64]`, of unit length."""
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(_CLUSTERS, _INNER))
    # Clusters of uneven size, as labels are.
    weights = generator.gamma(2.0, size=_CLUSTERS)
    owners = generator.choice(_CLUSTERS, count + queries, p=weights / weights.sum())
    inner = centres[owners] + _SPREAD * generator.normal(size=(count + queries, _INNER))
    outer = inner @ generator.normal(size=(_INNER, DIMENSION)) / _INNER**0.5
    everything = unit(outer + 0.05 * generator.normal(size=outer.shape))
    return everything[:count], everything[count:]


def unit(vectors: npt.NDArray[np.float64]) -> Embeddings:
    """Returns the vectors scaled to unit length, as float32."""
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def make_items(count: int) -> list[Item]:
    """Returns items as a folder of labelled images gives them."""
    return [
        Item(
            item_id=f"{i % 10}/image-{i:06d}.png",
            uri=f"file:///data/collection/{i % 10}/image-{i:06d}.png",
            sha256=f"{i:064x}",
            width=28,
            height=28,
            attributes={"label": str(i % 10), "number": i},
            thumbnail=b"\x89PNG" + bytes(300),
        )
        for i in range(count)
    ]


def exact_neighbors(embeddings: Embeddings, queries: Embeddings, k: int) -> npt.NDArray[np.int64]:
    """Returns the rows of the `k` nearest of each query, best first: int64 `[Q, k]`."""
    return ExactIndex(embeddings).search(queries, k)[0]


def choose_index(
    embeddings: Embeddings, queries: Embeddings, recall: float = RECALL + RECALL_MARGIN
) -> tuple[IndexParameters, float]:
    """Returns the parameters that the search finds for a recall@10 over `queries`, and what they have of it.

    By default a margin above the 0.95 that every system of a comparison must reach: other queries may be harder.
    """
    parameters = choose_parameters(*embeddings.shape)
    if parameters.kind != "tree":
        return parameters, 1.0
    _, choice = build_for(embeddings, queries, recall)
    return choice.parameters, choice.point.recall


def write_body(
    folder: pathlib.Path,
    items: Sequence[Item],
    embeddings: Embeddings,
    parameters: IndexParameters | None = None,
    *,
    shards: int = 1,
) -> pathlib.Path:
    """Writes `index/`, `embeddings/` and `items/` of a release; returns the folder. parameters: of each shard."""
    owners = np.array([layout.shard_of(item.item_id, shards) for item in items]) if shards > 1 else np.zeros(len(items))
    for number in range(shards):
        place, rows = (number, shards), np.flatnonzero(owners == number)
        file = folder / layout.embeddings_file(*place)
        file.parent.mkdir(parents=True, exist_ok=True)
        ours = embeddings[rows]
        np.save(file, ours, allow_pickle=False)
        index = build_index(ours, parameters or choose_parameters(*embeddings.shape))
        index.save(folder / layout.index_folder(*place))
        write_items(folder / layout.items_file(*place), [items[row] for row in rows.tolist()])
    return folder


def publish_release(
    root: pathlib.Path, encoder: pathlib.Path, body: pathlib.Path, items: Sequence[Item], embeddings: Embeddings
) -> Published:
    """Publishes an encoder folder with a body that holds `items` and `embeddings`."""
    rows = np.linspace(0, len(items) - 1, _GOLDEN).astype(int)
    found = exact_neighbors(embeddings, embeddings[rows], 11)
    golden = [
        GoldenQuery(items[row].item_id, tuple(items[i].item_id for i in near if i != row)[:10])
        for row, near in zip(rows.tolist(), found.tolist(), strict=True)
    ]
    return publish(
        open_store(root),
        encoder=encoder,
        body=body,
        model=MODEL,
        encoder_digest=tree_digest(list_files(encoder)),
        golden=golden,
        golden_recall=0.9,
        evaluation={},
        lineage={"run": "benchmark"},
        holder="benchmark",
    )
