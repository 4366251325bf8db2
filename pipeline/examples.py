"""Reads the pixels of an Examples split for training: each content once, decoded once, then from a cache."""

import dataclasses
import logging
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from components import features

_DECODE_BATCH = 256
_SHUFFLE = 20_000

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Split:
    """One split, opened. files: its TFRecords in order. first: bool `[records]`, where a content occurs first.

    kinds: the labels of the train split, sorted, where they were asked for.
    """

    files: tuple[str, ...]
    first: npt.NDArray[np.bool_]
    kinds: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """How many different contents it holds."""
        return int(self.first.sum())


def open_split(patterns: Sequence[str], *, with_labels: bool = False, kinds: Sequence[str] = ()) -> Split:
    """Returns the split in the gzipped TFRecords that match `patterns`; raises ValueError where it holds no example.

    with_labels: for a supervised family; raises ValueError where an example has none. kinds: those that are known
    already, of the train split.
    """
    files = tuple(sorted(name for pattern in patterns for name in tf.io.gfile.glob(pattern)))
    spec = {features.SHA256: tf.io.FixedLenFeature([], tf.string)}
    if with_labels:
        spec[features.LABEL] = tf.io.FixedLenFeature([], tf.string, default_value="")
    digests: list[bytes] = []
    labels: set[bytes] = set()
    records = tf.data.TFRecordDataset(files, "GZIP").batch(4096)
    for batch in records.map(lambda serialized: tf.io.parse_example(serialized, spec)):
        # 16 hex digits are 64 bits: enough to tell contents apart, and a fixed width for NumPy.
        digests.extend(digest[:16] for digest in batch[features.SHA256].numpy())
        if with_labels:
            labels.update(batch[features.LABEL].numpy().tolist())
    if not digests:
        raise ValueError(f"no examples in {list(patterns)}.")
    if b"" in labels:
        raise ValueError("a supervised family needs a label for every image: set ingest.label_from.")
    first = np.zeros(len(digests), np.bool_)
    first[np.unique(np.asarray(digests), return_index=True)[1]] = True
    logger.info("%d examples, %d different contents", len(first), first.sum())
    return Split(files, first, tuple(kinds) or tuple(sorted(label.decode() for label in labels)))


def pixel_dataset(
    split: Split,
    to_pixels: Callable[[tf.Tensor], tf.Tensor],
    *,
    batch_size: int,
    cache_bytes: int,
    cache_folder: pathlib.Path,
    shuffle_seed: int | None = None,
) -> tf.data.Dataset:
    """Returns batches of (pixels, target): float32 `[B, H, W, C]` in [0, 1], and the same again for an autoencoder.

    Where the split was opened with labels, the target is int64 `[B]`: the label's place in `split.kinds`, or -1.
    to_pixels: canonical bytes `[N]` -> float32 `[N, H, W, C]` in [0, 255]. Decoded images are kept as 8-bit: in memory
    up to `cache_bytes`, beyond in files in `cache_folder`. shuffle_seed: None keeps the order.
    """
    spec = {features.IMAGE: tf.io.FixedLenFeature([], tf.string)}

    if split.kinds:
        spec[features.LABEL] = tf.io.FixedLenFeature([], tf.string)
        numbers = tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(list(split.kinds), tf.range(len(split.kinds), dtype=tf.int64)), -1
        )

    def decode(serialized: tf.Tensor) -> tuple[tf.Tensor, ...]:
        parsed = tf.io.parse_example(serialized, spec)
        pixels = tf.cast(to_pixels(parsed[features.IMAGE]), tf.uint8)
        return (pixels, numbers.lookup(parsed[features.LABEL])) if split.kinds else (pixels,)

    records = tf.data.Dataset.zip(
        (tf.data.TFRecordDataset(split.files, "GZIP"), tf.data.Dataset.from_tensor_slices(split.first))
    )
    unique = records.filter(lambda _, first: first).map(lambda record, _: record)
    images = unique.batch(_DECODE_BATCH).map(decode, num_parallel_calls=tf.data.AUTOTUNE).unbatch()
    size = split.count * int(np.prod(images.element_spec[0].shape))
    if size <= cache_bytes:
        images = images.cache()
    else:
        cache_folder.mkdir(parents=True, exist_ok=True)
        images = images.cache(str(cache_folder / "pixels"))
    if shuffle_seed is not None:
        images = images.shuffle(min(split.count, _SHUFFLE), seed=shuffle_seed, reshuffle_each_iteration=True)

    def pair(batch: tf.Tensor, *target: tf.Tensor) -> tuple[Any, Any]:
        pixels = tf.cast(batch, tf.float32) / 255.0
        return pixels, target[0] if target else pixels

    dataset = images.batch(batch_size).map(pair, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)
    # The number of batches is known, but not to tf.data after a filter: with it Keras can show progress.
    return dataset.apply(tf.data.experimental.assert_cardinality(-(-split.count // batch_size)))
