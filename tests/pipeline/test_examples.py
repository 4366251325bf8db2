import numpy as np
import pytest

from components.pixels import PixelShape, decode
from pipeline.examples import open_split, pixel_dataset
from tests.pipeline.discs import SIDE, disc, write_examples


def to_pixels(image_bytes):
    return decode(image_bytes, PixelShape(SIDE, SIDE, 1))


def batches(split, tmp_path, **options):
    dataset = pixel_dataset(
        split, to_pixels, **{"batch_size": 4, "cache_bytes": 2**20, "cache_folder": tmp_path / "cache", **options}
    )
    return list(dataset.as_numpy_iterator())


def test_each_content_is_seen_once_and_in_order(tmp_path):
    images = [disc(0), disc(1), disc(0), disc(2), disc(1)]
    write_examples(tmp_path, images, "train", shards=1)
    split = open_split([str(tmp_path / "Split-train" / "*")])
    assert split.first.tolist() == [True, True, False, True, False]
    assert split.count == 3
    (inputs, targets), *more = batches(split, tmp_path)
    assert not more
    np.testing.assert_array_equal(inputs, targets)
    expected = to_pixels([disc(0), disc(1), disc(2)]).numpy() / np.float32(255)
    np.testing.assert_allclose(inputs, expected, atol=1e-6)


def test_shuffling_changes_with_the_epoch_and_not_with_the_run(tmp_path):
    write_examples(tmp_path, [disc(n) for n in range(30)], "train")
    split = open_split([str(tmp_path / "Split-train" / "*")])

    def two_epochs():
        dataset = pixel_dataset(
            split, to_pixels, batch_size=30, cache_bytes=2**20, cache_folder=tmp_path / "c", shuffle_seed=3
        )
        return [next(iter(dataset))[0].numpy() for _ in range(2)]

    first, second = two_epochs()
    assert not np.array_equal(first, second)
    again, _ = two_epochs()
    np.testing.assert_array_equal(first, again)
    ordered = batches(split, tmp_path, batch_size=30)[0][0]
    np.testing.assert_allclose(np.sort(first.sum((1, 2, 3))), np.sort(ordered.sum((1, 2, 3))), rtol=1e-5)


def test_a_split_beyond_the_memory_limit_is_cached_in_files(tmp_path):
    write_examples(tmp_path, [disc(n) for n in range(5)], "train")
    split = open_split([str(tmp_path / "Split-train" / "*")])
    small = batches(split, tmp_path, cache_bytes=0)
    assert list((tmp_path / "cache").iterdir())
    in_memory = batches(split, tmp_path)
    for (a, _), (b, _) in zip(small, in_memory, strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_number_of_batches_is_known(tmp_path):
    write_examples(tmp_path, [disc(n) for n in range(9)], "train")
    split = open_split([str(tmp_path / "Split-train" / "*")])
    dataset = pixel_dataset(split, to_pixels, batch_size=4, cache_bytes=2**20, cache_folder=tmp_path / "c")
    assert int(dataset.cardinality()) == 3


def test_an_empty_split_is_an_error(tmp_path):
    write_examples(tmp_path, [], "train")
    with pytest.raises(ValueError, match="no examples in"):
        open_split([str(tmp_path / "Split-train" / "*")])


def test_a_supervised_family_gets_the_numbers_of_labels(tmp_path):
    write_examples(tmp_path, [disc(n) for n in range(5)], "train", shards=1)
    split = open_split([str(tmp_path / "Split-train" / "*")], with_labels=True)
    assert split.kinds == ("even", "odd")
    assert np.concatenate([target for _, target in batches(split, tmp_path)]).tolist() == [0, 1, 0, 1, 0]
    # What the train split has no name for is told apart from everything it has.
    known = open_split([str(tmp_path / "Split-train" / "*")], with_labels=True, kinds=("odd",))
    assert np.concatenate([target for _, target in batches(known, tmp_path)]).tolist() == [-1, 0, -1, 0, -1]


def test_a_supervised_family_is_refused_without_labels(tmp_path):
    import tensorflow as tf

    features = {"sha256": tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"0" * 64]))}
    with tf.io.TFRecordWriter(str(tmp_path / "x.gz"), "GZIP") as writer:
        writer.write(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())
    with pytest.raises(ValueError, match="a supervised family needs a label for every image"):
        open_split([str(tmp_path / "*.gz")], with_labels=True)
