import pytest
import tensorflow as tf

from components import features
from components.embedding.example_shards import list_shards, read_records
from tests.components.tiny import Picture, make_examples, png

PICTURES = [Picture(f"{n}.png", png(n), "eval" if n % 3 == 0 else "train") for n in range(20)]
# In the order of the files.
ORDER = sorted(PICTURES, key=lambda picture: picture.split == "eval")


@pytest.mark.parametrize("at_once", [512, 7, 1])
def test_records_come_in_order_a_batch_at_a_time(tmp_path, at_once):
    (shard,) = list_shards(make_examples(tmp_path / "examples", PICTURES, 1).uri)
    records = list(read_records(shard, at_once))
    assert max(map(len, records)) == min(at_once, 13)
    examples = [tf.train.Example.FromString(record).features.feature for some in records for record in some]
    assert [e[features.ITEM_ID].bytes_list.value[0].decode() for e in examples] == [p.item_id for p in ORDER]
    assert [e[features.IMAGE].bytes_list.value[0] for e in examples] == [p.image for p in ORDER]
