import hashlib

import pytest
import tensorflow as tf

from components import features
from components.embedding import example_shards
from components.embedding.example_shards import list_shards, read_contents, read_records
from tests.components.tiny import Picture, make_examples, png

PICTURES = [
    Picture(f"{n}.png", png(n), "eval" if n % 3 == 0 else "train", {"label": str(n), "year": 1990 + n, "share": n / 3})
    for n in range(20)
]
# In the order of the files.
ORDER = sorted(PICTURES, key=lambda picture: picture.split == "eval")


def read(tmp_path, pictures=PICTURES):
    (shard,) = list_shards(make_examples(tmp_path / "examples", pictures, 1).uri)
    return list(read_contents(shard)), list(read_records(shard))


@pytest.fixture(params=[512, 7, 1])
def at_once(request, monkeypatch):
    monkeypatch.setattr(example_shards, "_MOST_RECORDS", request.param)
    return request.param


def test_records_come_in_order_a_batch_at_a_time(tmp_path, at_once):
    contents, records = read(tmp_path)
    assert [len(some.item_ids) for some in records] == [len(some.item_ids) for some in contents]
    assert max(len(some.item_ids) for some in records) == min(at_once, 13)
    assert [item_id for some in records for item_id in some.item_ids] == [picture.item_id for picture in ORDER]
    assert [image for some in records for image in some.images] == [picture.image for picture in ORDER]
    assert [some.split for some in records for _ in some.images] == [picture.split for picture in ORDER]
    assert [key for some in contents for key in some.keys] == [hashlib.sha256(p.image).digest() for p in ORDER]


def test_batches_are_bounded_by_their_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(example_shards, "_MOST_BYTES", 1)
    assert {len(some.images) for some in read(tmp_path)[1]} == {1}


def test_attributes_keep_their_types(tmp_path):
    train, _ = read(tmp_path)[1]
    found = dict(zip(train.item_ids, train.attributes, strict=True))["4.png"]
    assert found == {"label": "4", "year": 1994, "share": pytest.approx(4 / 3)}
    assert {name: type(value) for name, value in found.items()} == {"label": str, "year": int, "share": float}


def test_an_attribute_may_be_of_any_type_from_one_item_to_the_next(tmp_path):
    mixed = [1, "one", 1.5, None]
    pictures = [Picture(f"{n}.png", png(n), attributes={} if v is None else {"v": v}) for n, v in enumerate(mixed)]
    found = read(tmp_path, pictures)[1]
    assert [some for records in found for some in records.attributes] == [{"v": 1}, {"v": "one"}, {"v": 1.5}, {}]


def test_an_example_without_an_image_is_told(tmp_path):
    (tmp_path / "Split-train").mkdir()
    (tmp_path / "Split-eval").mkdir()
    example = tf.train.Example()
    for name in (features.ITEM_ID, features.SHA256, features.URI):
        example.features.feature[name].bytes_list.value.append(b"00")
    for split in ("train", "eval"):
        path = tmp_path / f"Split-{split}" / "data_tfrecord-00000-of-00001.gz"
        with tf.io.TFRecordWriter(str(path), tf.io.TFRecordOptions(compression_type="GZIP")) as writer:
            writer.write(example.SerializeToString())
    (shard,) = list_shards(str(tmp_path))
    with pytest.raises(ValueError, match="every example must hold one 'width'"):
        list(read_records(shard))
