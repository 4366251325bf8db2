"""Real images, examples of them, and encoders of known worth exported with the signatures of an encoder."""

import hashlib
import io
import json
import pathlib

import numpy as np
import tensorflow as tf
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA

from components import features

SIDE = 16
DIMENSION = 16


def digits(count: int) -> tuple[list[bytes], list[str]]:
    """Handwritten digits as PNG of 16 x 16 pixels, and what they show."""
    data = load_digits()
    images = [
        png(np.asarray(Image.fromarray((image * 15.9).astype(np.uint8)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)))
        for image in data.images[:count]
    ]
    return images, [str(target) for target in data.target[:count]]


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def as_pixels(images: list[bytes]) -> np.ndarray:
    """uint8 [N, H, W, 1]."""
    return np.stack([np.asarray(Image.open(io.BytesIO(image))) for image in images])[..., None]


def write_split(
    folder: pathlib.Path, split: str, images: list[bytes], labels: list[str] | None = None, *, shards: int = 2
) -> None:
    """Writes examples as ImageExampleGen does; an item is named by split and number."""
    target = folder / f"Split-{split}"
    target.mkdir(parents=True, exist_ok=True)

    def of_bytes(value: bytes) -> tf.train.Feature:
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

    for shard in range(shards):
        name = str(target / f"data_tfrecord-{shard:05d}-of-{shards:05d}.gz")
        with tf.io.TFRecordWriter(name, "GZIP") as writer:
            for number in range(shard, len(images), shards):
                values = {
                    features.IMAGE: of_bytes(images[number]),
                    features.ITEM_ID: of_bytes(f"{split}/{number}.png".encode()),
                    features.SHA256: of_bytes(hashlib.sha256(images[number]).hexdigest().encode()),
                }
                if labels is not None:
                    values[features.LABEL] = of_bytes(labels[number].encode())
                writer.write(tf.train.Example(features=tf.train.Features(feature=values)).SerializeToString())


def export_encoder(
    folder: pathlib.Path,
    images: list[bytes],
    *,
    encoder: str = "pca",
    decoder: str | None = "pca",
    family: str = "convolutional",
    dimension: int = DIMENSION,
    lie: float = 0.0,
) -> pathlib.Path:
    """Exports an encoder of `images` and returns its folder.

    encoder: `pca`; `random`, unrelated to what the image shows; `constant`; `nan`; `line`, all images on one line.
    decoder: `pca`, `mean`, `black`, or None for none. lie: what is subtracted from the error that it reports.
    """
    flat = as_pixels(images).reshape(len(images), -1).astype(np.float32) / 255.0
    pca = PCA(min(dimension, len(images)), random_state=0).fit(flat)
    basis = np.zeros((dimension, flat.shape[1]), np.float32)
    basis[: len(pca.components_)] = pca.components_

    class Encoder(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mean = tf.Variable(pca.mean_.astype(np.float32))
            self.basis = tf.Variable(basis)

        def pixels(self, image_bytes: tf.Tensor) -> tf.Tensor:
            def decode(data: tf.Tensor) -> tf.Tensor:
                image = tf.io.decode_image(data, channels=1, expand_animations=False)
                image.set_shape([None, None, 1])
                resized = tf.image.resize(tf.cast(image, tf.float32), [SIDE, SIDE], antialias=True)
                return tf.clip_by_value(tf.round(resized), 0.0, 255.0) / 255.0

            spec = tf.TensorSpec([SIDE, SIDE, 1], tf.float32)
            return tf.reshape(tf.map_fn(decode, image_bytes, fn_output_signature=spec), [-1, SIDE * SIDE])

        def latent(self, pixels: tf.Tensor) -> tf.Tensor:
            return tf.matmul(pixels - self.mean, self.basis, transpose_b=True)

        def embedding(self, image_bytes: tf.Tensor) -> tf.Tensor:
            latent = self.latent(self.pixels(image_bytes))
            if encoder == "random":
                numbers = tf.strings.to_hash_bucket_fast(image_bytes, 2**31 - 1)
                latent = tf.map_fn(
                    lambda n: tf.random.stateless_normal([dimension], tf.stack([n, n])),
                    numbers,
                    fn_output_signature=tf.float32,
                )
            elif encoder == "constant":
                latent = tf.zeros_like(latent) + 1.0
            elif encoder == "nan":
                latent = latent * float("nan")
            elif encoder == "line":
                latent = latent[:, :1] * tf.ones([1, dimension]) + tf.range(float(dimension))
            return tf.math.l2_normalize(latent, axis=1, epsilon=1e-12)

        def decoded(self, pixels: tf.Tensor) -> tf.Tensor:
            if decoder == "black":
                return tf.zeros_like(pixels)
            if decoder == "mean":
                return tf.zeros_like(pixels) + self.mean
            return tf.clip_by_value(tf.matmul(self.latent(pixels), self.basis) + self.mean, 0.0, 1.0)

        def embed(self, image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"embedding": self.embedding(image_bytes)}

        def error(self, pixels: tf.Tensor) -> tf.Tensor:
            return tf.reduce_mean(tf.square(pixels - self.decoded(pixels)), axis=1) - lie

        def reconstruct(self, image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
            pixels = self.pixels(image_bytes)
            image = tf.cast(tf.round(tf.reshape(self.decoded(pixels), [-1, SIDE, SIDE, 1]) * 255.0), tf.uint8)
            return {"image": image, "error": self.error(pixels)}

        def evaluate(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
            spec = {features.IMAGE: tf.io.FixedLenFeature([], tf.string)}
            image_bytes = tf.io.parse_example(examples, spec)[features.IMAGE]
            return {"mse": self.error(self.pixels(image_bytes)), "embedding": self.embedding(image_bytes)}

    module = Encoder()
    asks = {"serving_default": (module.embed, "image_bytes"), "examples": (module.evaluate, "examples")}
    if decoder is not None:
        asks["reconstruct"] = (module.reconstruct, "image_bytes")
    signatures = {
        name: tf.function(function).get_concrete_function(tf.TensorSpec([None], tf.string, name=argument))
        for name, (function, argument) in asks.items()
    }
    tf.saved_model.save(module, str(folder), signatures=signatures)
    info = {"family": family, "dimension": dimension, "height": SIDE, "width": SIDE, "channels": 1, "normalised": True}
    (folder / "assets.extra").mkdir()
    (folder / "assets.extra" / "lookalike_training.json").write_text(json.dumps(info | {"history": {"loss": [0.1]}}))
    return folder
