"""The stages of benchmarks/growth.py, each a process of its own: `python -m benchmarks._growth STAGE ...` prints JSON.

Collections are synthetic. `N` items.
"""

import contextlib
import io
import json
import pathlib
import resource
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

PARTS = 8
QUERIES = 500
K = 10
_SIDE = 28


def memory_mib() -> float:
    """Returns the most that this process has had in memory, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def folder_bytes(folder: pathlib.Path) -> int:
    """Returns the size of all that lies below a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def picture(number: int) -> bytes:
    """Returns a grey PNG of 28 x 28 pixels, as large as a digit of MNIST: an eighth of it noise, the rest black."""
    from PIL import Image

    pixels = np.zeros((_SIDE, _SIDE), np.uint8)
    pixels[7:21, 10:17] = np.random.default_rng(number).integers(0, 256, (14, 7), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def images(folder: str, count: str) -> dict[str, Any]:
    """Writes `count` pictures as ImageExampleGen does, nine tenths of them to train."""
    import hashlib

    import tensorflow as tf

    from components.ingest import shards
    from components.ingest.item_files import item_of, item_writers
    from components.ingest.listing import Entry
    from components.ingest.notes import write_contents
    from serving.images import CanonicalImage
    from serving.release.layout import shard_of
    from serving.storage import open_store

    options = tf.io.TFRecordOptions(compression_type="GZIP", compression_level=0)
    store, writers = open_store(folder), {}
    contents: dict[int, dict[str, list[str]]] = {n: {split: [] for split in shards.SPLITS} for n in range(PARTS)}
    stack = contextlib.ExitStack()
    items = [stack.enter_context(item_writers(store, shard, PARTS)) for shard in range(PARTS)]
    for split in shards.SPLITS:
        place = pathlib.Path(folder, f"Split-{split}")
        place.mkdir(parents=True)
        names = (str(place / shards.shard_file(shard, PARTS)) for shard in range(PARTS))
        writers[split] = [tf.io.TFRecordWriter(name, options) for name in names]
    for number in range(int(count)):
        data = picture(number)
        name = f"{number % 10}/image-{number:07d}.png"
        split = shards.split_of(hashlib.sha256(data).hexdigest(), 10)
        entry = Entry(name, f"/data/{name}", len(data), "1")
        image, shard = CanonicalImage(data, _SIDE, _SIDE, 1, "PNG"), shard_of(name, PARTS)
        writers[split][shard].write(shards._example(entry, image, str(number % 10)))
        items[shard][split].add(item_of(entry, image, str(number % 10)))
        contents[shard][split].append(image.sha256)
    stack.close()
    for shard, found in contents.items():
        write_contents(store, shard, PARTS, [sha256 for split in shards.SPLITS for sha256 in found[split]])
    for some in writers.values():
        for writer in some:
            writer.close()
    return {}


def encoder(folder: str) -> dict[str, Any]:
    """Writes an untrained encoder of pictures."""
    from benchmarks._encoders import write_encoder

    write_encoder(pathlib.Path(folder), [picture(number) for number in range(4)], dimension=64)
    return {}


def embed(examples: str, model: str) -> dict[str, Any]:
    """Runs the Embedder's job, a small one before it: whatever comes only once is no growth."""
    from benchmarks._embedding import run_job

    return {"seconds": run_job(examples, pathlib.Path(model)).work}


def embeddings(folder: str, count: str) -> dict[str, Any]:
    """Writes an Embeddings artifact of `count` items in clusters, queries, and the items that are their neighbours."""
    from benchmarks._releases import exact_neighbors, make_embeddings
    from components.embedding import parts
    from serving.release.items import Item, write_items
    from serving.release.layout import shard_of

    place = pathlib.Path(folder)
    place.mkdir(parents=True)
    vectors, queries = make_embeddings(int(count), QUERIES)
    names = [f"{number % 10}/image-{number:07d}.png" for number in range(int(count))]
    owners = np.array([shard_of(name, PARTS) for name in names])
    hashes = np.random.default_rng(1).integers(-(2**63), 2**63, int(count), np.int64)
    counts = []
    for part in range(PARTS):
        rows = np.flatnonzero(owners == part)
        counts.append(len(rows))
        np.save(place / parts.vectors_file(part, PARTS), vectors[rows])
        np.save(place / parts.held_out_file(part, PARTS), rows % 10 == 0)

        def items(rows: Any = rows) -> Iterator[Item]:
            for row in rows.tolist():
                sha256, attributes = f"{row:064x}", {"label": names[row][0], "number": row}
                named = (names[row], f"/data/{names[row]}", sha256, _SIDE, _SIDE)
                yield Item(*named, attributes, bytes(300), perceptual_hash=int(hashes[row]))

        write_items(place / parts.items_file(part, PARTS), items())
    report = parts.EmbeddingsReport(tuple(counts), 0, vectors.shape[1], *[int(count)] * 3, 0, ())
    (place / parts.REPORT).write_bytes(report.to_json())
    (place / parts.ENCODER).write_text(json.dumps({"digest": "d" * 64, "info": {"family": "convolutional"}}))
    golden = np.linspace(0, int(count) - 1, 20).astype(int)
    near = exact_neighbors(vectors, vectors[golden], K + 1).tolist()
    found = {
        names[row]: [names[i] for i in some if i != row][:K] for row, some in zip(golden.tolist(), near, strict=True)
    }
    (place / "golden.json").write_text(json.dumps(found))
    np.save(place / "queries.npy", queries)
    truth = [[names[row] for row in rows] for rows in exact_neighbors(vectors, queries, K).tolist()]
    (place / "truth.json").write_text(json.dumps(truth))
    return {}


def build(source: str, folder: str, shards: str) -> dict[str, Any]:
    """Runs IndexBuilder, as a run of the pipeline does."""
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

    from components.artifacts import Embeddings, VectorIndex
    from components.index_builder import IndexBuilder
    from pipeline.config import PipelineConfig

    given, index = Embeddings(), VectorIndex()
    given.uri, index.uri = source, folder
    before = memory_mib()
    began = time.perf_counter()
    IndexBuilder.test_call(
        embeddings=given,
        index=index,
        shards=int(shards),
        beam_pipeline=beam.Pipeline(options=PipelineOptions(list(PipelineConfig().beam_args))),
    )
    told = json.loads(pathlib.Path(folder, "index.json").read_text())
    return {
        "seconds": time.perf_counter() - began,
        "before MiB": before,
        "parameters": told["parameters"],
    }


def release(source: str, index: str, model: str, root: str) -> dict[str, Any]:
    """Publishes what was built as the current release."""
    from benchmarks._encoders import MODEL
    from serving.release.encoder_info import list_files, tree_digest
    from serving.release.manifest import GoldenQuery
    from serving.release.publish import publish
    from serving.storage import open_store

    golden = json.loads(pathlib.Path(source, "golden.json").read_text())
    began = time.perf_counter()
    publish(
        open_store(root),
        encoder=pathlib.Path(model),
        body=pathlib.Path(index),
        model=MODEL,
        encoder_digest=tree_digest(list_files(pathlib.Path(model))),
        golden=[GoldenQuery(name, tuple(near)) for name, near in golden.items()],
        golden_recall=0.8,
        evaluation={},
        lineage={"run": "benchmark"},
        holder="benchmark",
    )
    return {"seconds": time.perf_counter() - began}


def search(source: str, root: str, asked: str) -> dict[str, Any]:
    """Loads the current release as a gateway does and searches it, one query at a time, in one thread."""
    from serving.release.current import read_current
    from serving.release.reader import open_release
    from serving.storage import open_store

    store = open_store(root)
    before = memory_mib()
    began = time.perf_counter()
    opened = open_release(store, read_current(store) or "")
    load = time.perf_counter() - began
    queries = np.load(pathlib.Path(source, "queries.npy"))
    truth = json.loads(pathlib.Path(source, "truth.json").read_text())
    times, found = [], 0
    for turn in range(int(asked) + 100):
        number = turn % len(queries)
        began = time.perf_counter()
        near = opened.search(queries[number], K)
        # The first ones read files that were never read.
        if turn >= 100:
            times.append(time.perf_counter() - began)
        if turn < len(queries):
            found += len({neighbor.item.item_id for neighbor in near} & set(truth[number]))
    opened.close()
    p50, p99 = (1e3 * float(value) for value in np.percentile(times, (50, 99)))
    recall = found / min(len(queries), int(asked) + 100) / K
    return {"load seconds": load, "before MiB": before, "p50 ms": p50, "p99 ms": p99, "recall": recall}


STAGES: dict[str, Callable[..., dict[str, Any]]] = {
    stage.__name__: stage for stage in (images, encoder, embed, embeddings, build, release, search)
}


def main() -> None:
    """Does one stage."""
    done = STAGES[sys.argv[1]](*sys.argv[2:])
    sys.stdout.write("\n" + json.dumps({**done, "peak MiB": memory_mib()}) + "\n")


if __name__ == "__main__":
    main()
