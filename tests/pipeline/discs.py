"""Small real images that an autoencoder can learn, and examples of them as ImageExampleGen writes them."""

import hashlib
import io
import pathlib
import types
from typing import Any

import numpy as np
from PIL import Image

SIDE = 18


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def disc(seed: int, side: int = SIDE) -> bytes:
    """A grey disc of some size somewhere: images that an autoencoder can learn."""
    random = np.random.default_rng(seed)
    row, column, radius = *random.uniform(side * 0.3, side * 0.7, 2), random.uniform(2, side * 0.3)
    y, x = np.mgrid[:side, :side]
    return png(np.where((y - row) ** 2 + (x - column) ** 2 < radius**2, 220, 20).astype(np.uint8))


def write_examples(folder: pathlib.Path, images: list[bytes], split: str, shards: int = 2) -> None:
    import tensorflow as tf

    target = folder / f"Split-{split}"
    target.mkdir(parents=True)
    for shard in range(shards):
        name = str(target / f"data_tfrecord-{shard:05d}-of-{shards:05d}.gz")
        with tf.io.TFRecordWriter(name, "GZIP") as writer:
            for number, image in list(enumerate(images))[shard::shards]:
                values = {
                    "image": image,
                    "item_id": f"{split}/{number}.png".encode(),
                    "sha256": hashlib.sha256(image).hexdigest().encode(),
                    "label": b"even" if number % 2 == 0 else b"odd",
                }
                feature = {k: tf.train.Feature(bytes_list=tf.train.BytesList(value=[v])) for k, v in values.items()}
                writer.write(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())


def fn_args_for(examples: pathlib.Path, transform: str, out: pathlib.Path, epochs: int) -> Any:
    encoder = {"dimension": 4, "height": SIDE, "width": SIDE, "channels": 1, "filters": [4, 8]}
    return types.SimpleNamespace(
        transform_output=transform,
        train_files=[f"{examples}/examples/Split-train/*"],
        eval_files=[f"{examples}/examples/Split-eval/*"],
        model_run_dir=str(out / "logs"),
        serving_model_dir=str(out / "model"),
        custom_config={
            "encoder": encoder,
            "training": {"epochs": epochs, "batch_size": 16, "learning_rate": 0.01, "min_steps": 0},
            "checkpoints": str(out / "checkpoints"),
            "code": "x",
        },
    )
