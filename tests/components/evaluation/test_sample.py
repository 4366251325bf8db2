from components.evaluation.sample import data_fingerprint, sample_split, split_files
from tests.components.tried_encoders import digits, write_split


def taken(folder, split="train", *, limit=1000, seed=1):
    return sample_split(split_files(str(folder), split), limit=limit, seed=seed)


def test_a_sample_does_not_depend_on_the_order_of_records(tmp_path):
    images, labels = digits(60)
    write_split(tmp_path / "a", "train", images, labels, shards=3)
    write_split(tmp_path / "b", "train", images[::-1], labels[::-1], shards=1)
    one, other = (set(taken(tmp_path / name, limit=20).chosen) for name in "ab")
    assert len(one) == 20
    assert one == other
    assert set(taken(tmp_path / "a", limit=20, seed=2).chosen) != one


def test_a_content_is_taken_once_with_its_first_item(tmp_path):
    images, _ = digits(6)
    write_split(tmp_path, "train", [*images, images[0], images[0]], [str(n) for n in range(8)])
    split = taken(tmp_path)
    assert (split.records, split.contents, len(split.chosen)) == (8, 6, 6)
    items = [item for batch in split.read() for item in batch]
    assert sorted(item.item_id for item in items) == [f"train/{n}.png" for n in range(6)]
    assert {item.image for item in items} == set(images)
    assert {item.label for item in items} == {str(n) for n in range(6)}


def test_contents_beyond_the_limit_are_counted_up_to_it(tmp_path):
    images, _ = digits(10)
    write_split(tmp_path, "train", images)
    split = taken(tmp_path, limit=4)
    assert (split.records, split.contents) == (10, 4)
    assert sum(len(batch) for batch in split.read()) == 4
    wanted = frozenset(list(split.chosen)[:2])
    assert {item.sha256 for batch in split.read(wanted) for item in batch} == wanted


def test_examples_without_labels(tmp_path):
    write_split(tmp_path, "train", digits(3)[0])
    assert {item.label for batch in taken(tmp_path).read() for item in batch} == {None}


def test_a_split_that_is_empty_or_missing(tmp_path):
    write_split(tmp_path, "eval", [])
    for split in ("eval", "train"):
        sample = taken(tmp_path, split)
        assert (sample.records, list(sample.read())) == (0, [])


def test_the_fingerprint_is_that_of_the_content(tmp_path):
    images, labels = digits(12)
    write_split(tmp_path / "a", "train", images, labels, shards=3)
    write_split(tmp_path / "b", "train", images, shards=1)
    write_split(tmp_path / "c", "train", [*images[:-1], images[0]], shards=1)
    one, other, changed = (data_fingerprint([taken(tmp_path / name, limit=5)]) for name in "abc")
    assert one == other
    assert one != changed
    assert len(one) == 64
