"""Small releases of random unit vectors, published for real, for the tests of everything that reads one."""

import functools
import io
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from serving.index import ExactIndex, IndexParameters, build_index
from serving.release import layout
from serving.release.encoder_info import EncoderInfo, Probe, list_files, tree_digest
from serving.release.items import Item, write_items
from serving.release.manifest import GoldenQuery
from serving.release.publish import Published, publish
from serving.storage import open_store

MODEL = "encoder"


@functools.lru_cache
def png(seed: int = 0, side: int = 16) -> bytes:
    """Returns a canonical image: a grey PNG of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def unit_vectors(n: int, dimension: int, seed: int = 0) -> npt.NDArray[np.float32]:
    """Returns random embeddings: float32 `[n, dimension]`, of unit length."""
    vectors = np.random.default_rng(seed).normal(size=(n, dimension))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def make_items(n: int, start: int = 0) -> list[Item]:
    """Returns items `image-0000.png` and so on, with attributes of every type."""
    return [
        Item(
            item_id=f"image-{i:04d}.png",
            uri=f"file:///images/image-{i:04d}.png",
            sha256=f"{i:064x}",
            width=16,
            height=16 + i % 3,
            attributes={"label": str(i % 10), "number": i, "weight": i / 2, "even": i % 2 == 0},
            thumbnail=png(i % 10),
        )
        for i in range(start, start + n)
    ]


def make_encoder(
    folder: pathlib.Path,
    dimension: int = 8,
    seed: int = 0,
    probes: Sequence[Probe] | None = None,
    metrics: dict[str, Any] | None = None,
) -> pathlib.Path:
    """Writes a complete encoder that no TensorFlow would load; returns its folder."""
    if probes is None:
        probes = [Probe(png(i), unit_vectors(2, dimension, seed)[i]) for i in range(2)]
    info = EncoderInfo(
        dimension=dimension,
        height=16,
        width=16,
        channels=1,
        family="convolutional",
        normalised=True,
        metrics={"mse": 0.005, **(metrics or {})},
        data_fingerprint="none",
        probes=tuple(probes),
    )
    for name in ("variables", "assets.extra"):
        (folder / name).mkdir(parents=True)
    (folder / layout.SAVED_MODEL).write_bytes(f"model {seed}".encode())
    (folder / "variables" / "variables.data-00000-of-00001").write_bytes(bytes(range(100)))
    (folder / "assets.extra" / "tf_serving_warmup_requests").write_bytes(b"warm-up")
    (folder / layout.ENCODER_INFO).write_bytes(info.to_json())
    return folder


def make_body(
    folder: pathlib.Path,
    items: Sequence[Item],
    embeddings: npt.NDArray[np.float32],
    *,
    shards: int = 1,
    parameters: IndexParameters | None = None,
) -> pathlib.Path:
    """Writes `index/`, `embeddings/` and `items/` of a release; returns the folder."""
    parameters = parameters or IndexParameters("brute_force")
    owners = np.array([layout.shard_of(item.item_id, shards) for item in items])
    for shard in range(shards):
        rows = np.flatnonzero(owners == shard)
        file = folder / layout.embeddings_file(shard, shards)
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, embeddings[rows], allow_pickle=False)
        build_index(embeddings[rows], parameters).save(folder / layout.index_folder(shard, shards))
        write_items(folder / layout.items_file(shard, shards), [items[row] for row in rows])
    return folder


def make_golden(
    items: Sequence[Item], embeddings: npt.NDArray[np.float32], queries: int = 10, k: int = 5
) -> list[GoldenQuery]:
    """Returns the first items as golden queries, with their exact neighbours."""
    golden = []
    for row in range(min(queries, len(items))):
        found = ExactIndex(embeddings).search(embeddings[row : row + 1], k + 1)[0][0]
        golden.append(GoldenQuery(items[row].item_id, tuple(items[i].item_id for i in found if i != row)[:k]))
    return golden


def publish_release(
    root: pathlib.Path | str,
    work: pathlib.Path,
    *,
    n: int = 50,
    dimension: int = 8,
    seed: int = 0,
    shards: int = 1,
    parameters: IndexParameters | None = None,
    encoder_seed: int = 0,
    probes: Sequence[Probe] | None = None,
    encoder_metrics: dict[str, Any] | None = None,
    items: Sequence[Item] | None = None,
    embeddings: npt.NDArray[np.float32] | None = None,
    golden_recall: float = 0.99,
    clock: Callable[[], float] = time.time,
    **options: Any,
) -> Published:
    """Makes an encoder and a body in the new folders `work`/encoder and `work`/body, and publishes them at `root`.

    seed: of the embeddings. encoder_seed, probes, encoder_metrics: other ones make another encoder.
    options: for `publish`.
    """
    items = make_items(n) if items is None else items
    embeddings = unit_vectors(len(items), dimension, seed) if embeddings is None else embeddings
    encoder = make_encoder(work / "encoder", embeddings.shape[1], encoder_seed, probes, encoder_metrics)
    arguments: dict[str, Any] = {
        "encoder": encoder,
        "body": make_body(work / "body", items, embeddings, shards=shards, parameters=parameters),
        "model": MODEL,
        "encoder_digest": tree_digest(list_files(encoder)),
        "golden": make_golden(items, embeddings),
        "golden_recall": golden_recall,
        "evaluation": {"recall_at_10": 1.0},
        "lineage": {"run": f"test {seed}"},
        "holder": "test",
        "clock": clock,
    }
    return publish(open_store(root), **{**arguments, **options})


def build_release(root: pathlib.Path, n: int = 50, dimension: int = 8, seed: int = 0, **options: Any) -> str:
    """Publishes a release of random embeddings at the serving root `root`; returns its id.

    options: as for `publish_release`. It works beside the root, in a folder that stays: `root`.work-<number>.
    """
    number = len(list(root.parent.glob(f"{root.name}.work-*")))
    work = root.parent / f"{root.name}.work-{number}"
    return publish_release(root, work, n=n, dimension=dimension, seed=seed, **options).release_id
