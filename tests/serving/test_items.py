import concurrent.futures
import contextlib
import dataclasses
import pathlib
import sqlite3

import numpy as np
import pytest

from serving.release.items import Item, ItemShard, ItemWriter, write_items
from tests.serving.release_builder import make_items


def test_items_come_back_as_they_went(tmp_path: pathlib.Path) -> None:
    items = make_items(2500)
    assert write_items(tmp_path / "items.sqlite", iter(items)) == 2500
    shard = ItemShard(tmp_path / "items.sqlite")
    assert shard.count == 2500
    assert list(shard) == items
    assert shard.by_row([2400, 0, 7, 0], thumbnails=True) == [items[2400], items[0], items[7], items[0]]
    assert shard.by_row(range(2500)) == [dataclasses.replace(item, thumbnail=b"") for item in items]
    assert shard.by_row([]) == []


def test_attributes_keep_their_types(tmp_path: pathlib.Path) -> None:
    attributes = {"text": "1", "int": 1, "float": 1.0, "bool": True, "no": False, "least": -(2**63), "": "", "ü": "ß"}
    plain = Item("plain", "u", "s", 1, 1)
    write_items(tmp_path / "items.sqlite", [plain, Item("all", "u", "s", 1, 1, attributes)])
    found = ItemShard(tmp_path / "items.sqlite").by_row([0, 1])
    assert [dict(item.attributes) for item in found] == [{}, attributes]
    assert [type(v) for v in found[1].attributes.values()] == [type(attributes[name]) for name in found[1].attributes]


def test_attributes_are_a_table_that_sql_can_filter(tmp_path: pathlib.Path) -> None:
    write_items(tmp_path / "items.sqlite", make_items(20))
    query = "SELECT row FROM attributes WHERE name = 'number' AND value >= 18 ORDER BY row"
    assert sqlite3.connect(tmp_path / "items.sqlite").execute(query).fetchall() == [(18,), (19,)]


def test_ids(tmp_path: pathlib.Path) -> None:
    names = ["b", "a", "ä", "Z", "with ' quote", "a/b.png", "日本"]
    write_items(tmp_path / "it'ems ?#.sqlite", [Item(name, "u", "s", 1, 1) for name in names])
    shard = ItemShard(tmp_path / "it'ems ?#.sqlite")
    assert [shard.row_of(name) for name in names] == list(range(len(names)))
    assert shard.row_of("c") is None
    assert [name for _, name in shard.by_id()] == sorted(names)


def test_where_an_items_image_came_from(tmp_path: pathlib.Path) -> None:
    items = [
        Item("known", "u", "s", 1, 1, {"a": True}, b"small", 7, "v"),
        Item("unknown", "w", "t", 1, 1),
    ]
    write_items(tmp_path / "items.sqlite", items)
    shard = ItemShard(tmp_path / "items.sqlite")
    expected = {"known": (0, "u", "s", 7, "v", {"a": True}), "unknown": (1, "w", "t", -1, "", {})}
    assert shard.sources_of(["unknown", "known", "nobody"]) == expected
    assert list(shard) == items
    shard.close()

    # As in a release of before there were reindexes.
    with contextlib.closing(sqlite3.connect(tmp_path / "items.sqlite")) as connection, connection:
        connection.execute("ALTER TABLE items DROP COLUMN source_size")
        connection.execute("ALTER TABLE items DROP COLUMN source_version")
    with contextlib.closing(ItemShard(tmp_path / "items.sqlite")) as older:
        assert older.sources_of(["known"]) == {"known": (0, "u", "s", -1, "", {"a": True})}
        assert list(older) == [dataclasses.replace(items[0], source_size=-1, source_version=""), items[1]]


def test_near_duplicates(tmp_path: pathlib.Path) -> None:
    items = [
        Item("a", "u", "s", 1, 1, {}, b"small", 7, "v", -(2**63), "a"),
        Item("b", "u", "t", 1, 1, perceptual_hash=2**63 - 1, duplicate_group="a"),
        Item("c", "u", "w", 1, 1),
    ]
    write_items(tmp_path / "items.sqlite", items)
    shard = ItemShard(tmp_path / "items.sqlite")
    assert list(shard) == items
    assert list(shard.contents()) == [(0, "s", -(2**63)), (1, "t", 2**63 - 1), (2, "w", None)]
    assert shard.groups_by_row([2, 0, 1]) == [("", "w"), ("a", "s"), ("a", "t")]
    shard.close()

    # Into another release goes what was seen in the image, and not the group, whose others may be gone.
    with ItemWriter(tmp_path / "next.sqlite") as writer:
        assert writer.copy(tmp_path / "items.sqlite", np.array([2, 1])) == 2
    with contextlib.closing(ItemShard(tmp_path / "next.sqlite")) as following:
        assert list(following) == [items[2], dataclasses.replace(items[1], duplicate_group="")]

    # As in a release of before they were looked for.
    with contextlib.closing(sqlite3.connect(tmp_path / "items.sqlite")) as connection, connection:
        connection.execute("ALTER TABLE items DROP COLUMN perceptual_hash")
        connection.execute("ALTER TABLE items DROP COLUMN duplicate_group")
    with contextlib.closing(ItemShard(tmp_path / "items.sqlite")) as older:
        assert list(older.contents()) == [(0, "s", None), (1, "t", None), (2, "w", None)]
        assert older.groups_by_row([0]) == [("", "s")]
        assert [item.duplicate_group for item in older] == ["", "", ""]
    with ItemWriter(tmp_path / "newest.sqlite") as writer:
        writer.copy(tmp_path / "items.sqlite", np.array([2, 1]))
    with contextlib.closing(ItemShard(tmp_path / "newest.sqlite")) as newest:
        assert [item.perceptual_hash for item in newest] == [None, None]


@pytest.mark.parametrize("indexed", [True, False])
def test_items_of_other_files_are_copied_among_others(tmp_path: pathlib.Path, indexed: bool) -> None:
    items = make_items(1500)
    write_items(tmp_path / "some.sqlite", items[:1200])
    write_items(tmp_path / "others.sqlite", items[1300:])
    with ItemWriter(tmp_path / "items.sqlite", indexed=indexed) as writer:
        for item in items[1200:1300]:
            writer.add(item)
        assert writer.copy(tmp_path / "some.sqlite") == 1200
        assert writer.copy(tmp_path / "others.sqlite", np.array([3, 0])) == 2
        writer.add(items[1301])
        assert writer.count == 1303
    with contextlib.closing(ItemShard(tmp_path / "items.sqlite")) as shard:
        assert list(shard) == [*items[1200:1300], *items[:1200], items[1303], items[1300], items[1301]]


def test_an_item_that_is_not_there_is_not_copied(tmp_path: pathlib.Path) -> None:
    write_items(tmp_path / "some.sqlite", make_items(3))
    with (
        pytest.raises(IndexError, match=r"some.sqlite must hold each of 2 rows, it holds 1 of them"),
        ItemWriter(tmp_path / "items.sqlite") as writer,
    ):
        writer.copy(tmp_path / "some.sqlite", np.array([2, 3]))


def test_no_items(tmp_path: pathlib.Path) -> None:
    assert write_items(tmp_path / "items.sqlite", []) == 0
    shard = ItemShard(tmp_path / "items.sqlite")
    assert (shard.count, list(shard), shard.row_of("a")) == (0, [], None)


def test_the_same_items_give_the_same_bytes(tmp_path: pathlib.Path) -> None:
    for name in ("a", "b"):
        write_items(tmp_path / name, make_items(300))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("rows", [[5], [-1], [0, 99]])
def test_a_row_that_is_not_there(tmp_path: pathlib.Path, rows: list[int]) -> None:
    write_items(tmp_path / "items.sqlite", make_items(5))
    with pytest.raises(IndexError, match=rf"row must be in \[0, 5\), got {rows[-1]}"):
        ItemShard(tmp_path / "items.sqlite").by_row(rows)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 2**63, None, b"x", [1]])
def test_an_attribute_that_can_not_be_kept(tmp_path: pathlib.Path, value: object) -> None:
    with pytest.raises(ValueError, match="attribute 'x' of 'id' must be"):
        write_items(tmp_path / "items.sqlite", [Item("id", "u", "s", 1, 1, {"x": value})])  # type: ignore[dict-item]


def test_duplicate_and_empty_ids(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match=r"rows 0 to 3: UNIQUE constraint failed: items\.item_id"):
        write_items(tmp_path / "items.sqlite", [*make_items(3), *make_items(1)])
    with pytest.raises(ValueError, match="item_id must not be empty"):
        Item("", "u", "s", 1, 1)


def test_never_over_an_older_file(tmp_path: pathlib.Path) -> None:
    write_items(tmp_path / "items.sqlite", make_items(1))
    with pytest.raises(FileExistsError):
        write_items(tmp_path / "items.sqlite", make_items(1))


def test_what_is_not_there_is_not_made(tmp_path: pathlib.Path) -> None:
    with pytest.raises(FileNotFoundError):
        ItemShard(tmp_path / "items.sqlite")
    assert not list(tmp_path.iterdir())


def test_reading_leaves_no_trace_even_where_nothing_can_be_written(tmp_path: pathlib.Path) -> None:
    write_items(tmp_path / "items.sqlite", make_items(5))
    before = (tmp_path / "items.sqlite").read_bytes()
    shard = ItemShard(tmp_path / "items.sqlite")
    list(shard)
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        shard._connection().execute("DELETE FROM items")
    shard.close()
    assert [path.name for path in tmp_path.iterdir()] == ["items.sqlite"]
    assert (tmp_path / "items.sqlite").read_bytes() == before


def test_many_threads_read(tmp_path: pathlib.Path) -> None:
    items = make_items(200)
    write_items(tmp_path / "items.sqlite", items)
    shard = ItemShard(tmp_path / "items.sqlite")
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda row: shard.by_row([row], thumbnails=True)[0], [*range(200)] * 5))
    assert found == items * 5
    shard.close()
    with pytest.raises(sqlite3.ProgrammingError):
        shard.by_row([0])
    with pytest.raises(ValueError, match="closed"), concurrent.futures.ThreadPoolExecutor(1) as pool:
        pool.submit(shard.by_row, [0]).result()


def test_rows_by_id_and_by_query(tmp_path: pathlib.Path) -> None:
    items = make_items(2500)
    write_items(tmp_path / "items.sqlite", items)
    shard = ItemShard(tmp_path / "items.sqlite")
    ids = [item.item_id for item in items[::-1]]
    assert shard.rows_of([*ids, "nobody", ids[0]]) == {name: 2499 - i for i, name in enumerate(ids)}
    assert shard.rows_of([]) == {}
    query = "SELECT row FROM attributes WHERE name = ? AND value >= ?"
    assert sorted(shard.rows_where(query, ("number", 2490)).tolist()) == list(range(2490, 2500))
    assert shard.rows_where(query, ("number", 9999)).tolist() == []


def test_filters_need_not_read_every_item(tmp_path: pathlib.Path) -> None:
    write_items(tmp_path / "items.sqlite", make_items(100))
    with contextlib.closing(sqlite3.connect(tmp_path / "items.sqlite")) as connection:
        for query in (
            "SELECT row FROM attributes WHERE name = 'number' AND boolean = 0 AND value < 3",
            "SELECT row FROM items WHERE width = 3",
            "SELECT row FROM items WHERE height > 3",
            "SELECT row FROM items WHERE item_id != 'a'",
        ):
            [step] = connection.execute(f"EXPLAIN QUERY PLAN {query}").fetchall()
            assert "COVERING INDEX" in step[-1], query
