"""Small real collections and encoders for the tests of the components."""

import dataclasses
import hashlib
import io
import json
import pathlib

import numpy as np
import tensorflow as tf
from PIL import Image
from tfx.types import standard_artifacts
from tfx.utils import path_utils

from components import features
from components.artifacts import Embeddings
from components.embedding import parts as embedding_parts
from components.embedding.parts import EmbeddingsReport
from components.ingest.item_files import item_of, item_writers
from components.ingest.listing import Entry
from components.ingest.notes import write_contents
from serving.images import CanonicalImage
from serving.release import layout
from serving.release.encoder_info import EncoderInfo, Probe
from serving.release.items import Item, write_items
from serving.storage import open_store

SIDE = 8
DIMENSION = 16


def png(seed: int, side: int = SIDE) -> bytes:
    """Returns a canonical grey image that no other seed gives."""
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@dataclasses.dataclass(frozen=True)
class Picture:
    """An item to be written into an Examples artifact."""

    item_id: str
    image: bytes
    split: str = "train"
    attributes: dict = dataclasses.field(default_factory=dict)
    side: int = SIDE


def _example(picture: Picture) -> bytes:
    def feature(value):
        if isinstance(value, float):
            return tf.train.Feature(float_list=tf.train.FloatList(value=[value]))
        if isinstance(value, int):
            return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
        value = value if isinstance(value, bytes) else value.encode()
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

    values = {
        features.IMAGE: picture.image,
        features.ITEM_ID: picture.item_id,
        features.SHA256: hashlib.sha256(picture.image).hexdigest(),
        features.URI: f"/images/{picture.item_id}",
        features.WIDTH: picture.side,
        features.HEIGHT: picture.side,
        **{features.attribute_feature(name): value for name, value in picture.attributes.items() if name != "label"},
    }
    if "label" in picture.attributes:
        values[features.LABEL] = picture.attributes["label"]
    example = tf.train.Example(features=tf.train.Features(feature={k: feature(v) for k, v in values.items()}))
    return example.SerializeToString()


def _write_beside(folder, pictures, shard, shards):
    """Writes what lies beside the examples of a shard: its items, each once, and what they contain."""
    store = open_store(folder)
    # An item of both splits is held out.
    items = {picture.item_id: picture for picture in pictures}.values()
    ordered = sorted(items, key=lambda picture: picture.split == "eval")
    write_contents(store, shard, shards, [hashlib.sha256(picture.image).hexdigest() for picture in ordered])
    with item_writers(store, shard, shards) as writers:
        for picture in ordered:
            label = picture.attributes.get("label")
            attributes = tuple((name, value) for name, value in picture.attributes.items() if name != "label")
            entry = Entry(picture.item_id, f"/images/{picture.item_id}", -1, "", attributes=attributes)
            image = CanonicalImage(picture.image, picture.side, picture.side, 1, "PNG")
            writers[picture.split].add(item_of(entry, image, label))


def make_examples(folder, pictures, shards=4):
    """Writes an Examples artifact into `folder` as ImageExampleGen does."""
    artifact = standard_artifacts.Examples()
    artifact.uri = str(folder)
    for shard in range(shards):
        _write_beside(folder, [p for p in pictures if layout.shard_of(p.item_id, shards) == shard], shard, shards)
    for split in ("train", "eval"):
        inside = folder / f"Split-{split}"
        inside.mkdir(parents=True)
        for shard in range(shards):
            path = str(inside / f"data_tfrecord-{shard:05d}-of-{shards:05d}.gz")
            with tf.io.TFRecordWriter(path, tf.io.TFRecordOptions(compression_type="GZIP")) as writer:
                for picture in pictures:
                    if picture.split == split and layout.shard_of(picture.item_id, shards) == shard:
                        writer.write(_example(picture))
    return artifact


class TinyEncoder(tf.Module):
    """Projects the pixels of PNGs. It writes the size of every batch into a file: how often it was really asked.

    gate: a file without which it does not answer, empty for none.
    """

    def __init__(self, seed: int, log: pathlib.Path, gate: str = "") -> None:
        super().__init__()
        self.weights = tf.Variable(np.random.default_rng(seed).normal(size=(SIDE * SIDE, DIMENSION)), dtype=tf.float32)
        self._log = f"file://{log}"
        self._gate = gate

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "image_bytes")])
    def embed(self, image_bytes):
        tf.print(tf.shape(image_bytes)[0], output_stream=self._log)
        if self._gate:
            tf.while_loop(lambda _: tf.size(tf.io.matching_files(self._gate)) == 0, lambda n: (n,), [0])
        pixels = tf.map_fn(self._decode, image_bytes, fn_output_signature=tf.TensorSpec([SIDE * SIDE], tf.float32))
        return {"embedding": tf.math.l2_normalize(pixels @ self.weights, axis=1)}

    @staticmethod
    def _decode(data):
        image = tf.ensure_shape(tf.io.decode_png(data, channels=1), [None, None, 1])
        return tf.reshape(tf.image.resize(image, [SIDE, SIDE]) / 255 - 0.5, [SIDE * SIDE])


@dataclasses.dataclass(frozen=True)
class Encoder:
    """A complete encoder in an InfraBlessing. folder: the SavedModel. log: a line per call."""

    blessing: standard_artifacts.InfraBlessing
    folder: pathlib.Path
    log: pathlib.Path

    def calls(self) -> list[int]:
        """Returns the size of every batch it was asked for, since the last time."""
        text = self.log.read_text() if self.log.exists() else ""
        self.log.unlink(missing_ok=True)
        return [int(line) for line in text.split()]


def make_encoder(folder, seed=0, normalised=True, gate=""):
    """Makes a complete encoder, blessed, in `folder`."""
    log = folder.with_name(f"{folder.name}.calls")
    module = TinyEncoder(seed, log, gate)
    artifact = standard_artifacts.InfraBlessing()
    artifact.uri = str(folder)
    artifact.set_int_custom_property("blessed", 1)
    artifact.set_int_custom_property("has_model", 1)
    model = pathlib.Path(path_utils.stamped_model_path(artifact.uri))
    tf.saved_model.save(module, str(model), signatures={"serving_default": module.embed})
    probe = png(1_000_000)
    info = EncoderInfo(
        dimension=DIMENSION,
        height=SIDE,
        width=SIDE,
        channels=1,
        family="tiny",
        normalised=normalised,
        metrics={},
        data_fingerprint="f" * 64,
        probes=(Probe(probe, module.embed(tf.constant([probe]))["embedding"].numpy()[0]),),
    )
    (model / "assets.extra").mkdir()
    (model / layout.ENCODER_INFO).write_bytes(info.to_json())
    encoder = Encoder(artifact, model, log)
    encoder.calls()
    return encoder


def make_embeddings(folder, count, parts=2, held_out=lambda n: n % 4 == 0, vectors=None):
    """Writes an Embeddings artifact of `count` items; returns it and item id -> vector."""
    if vectors is None:
        vectors = np.random.default_rng(0).normal(size=(count, 8))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    artifact = Embeddings()
    artifact.uri = str(folder)
    folder.mkdir()
    numbers = [[] for _ in range(parts)]
    for n in range(count):
        numbers[layout.shard_of(f"{n}.png", parts)].append(n)
    for part, some in enumerate(numbers):
        np.save(folder / embedding_parts.vectors_file(part, parts), vectors[some].reshape(len(some), vectors.shape[1]))
        np.save(folder / embedding_parts.held_out_file(part, parts), np.asarray([held_out(n) for n in some], bool))
        write_items(
            folder / embedding_parts.items_file(part, parts),
            [Item(f"{n}.png", f"/images/{n}.png", "0" * 64, 8, 8, {}, f"{n}.png".encode()) for n in some],
        )
    (folder / embedding_parts.ENCODER).write_text(json.dumps({"digest": "d" * 64, "info": {}}))
    report = EmbeddingsReport(tuple(map(len, numbers)), 0, vectors.shape[1], count, count, count, 0, ())
    (folder / embedding_parts.REPORT).write_bytes(report.to_json())
    return artifact, {f"{n}.png": vectors[n] for n in range(count)}
