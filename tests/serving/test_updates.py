"""Upserts and deletes over real gateways, against one serving root."""

import pathlib
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from lookalike.retrieval.v1 import retrieval_pb2
from serving.client import Client, Credentials, Deleted, NewItem, Query, QueryFailed, Upserted
from serving.gateway.options import Security, Updates
from serving.images import canonicalize
from serving.journal.clock import HybridClock, wall_milliseconds
from serving.journal.entry import Tombstone, Upsert
from serving.journal.reader import heads, read_from
from serving.journal.state import UpdatesState, fold
from serving.journal.writer import JournalWriter
from serving.release.encoder_info import Probe
from serving.release.items import Item
from serving.storage import open_store
from tests.serving.collection import Collection
from tests.serving.fake_model_server import embed
from tests.serving.loop_thread import LoopThread
from tests.serving.pictures import png
from tests.serving.release_builder import publish_release
from tests.serving.running import Running

ALLOWED = Updates(allow_updates=True, journal_seconds=0.05)
NEW = png(777)


@pytest.fixture
def collection(tmp_path: pathlib.Path) -> Collection:
    collection = Collection(tmp_path / "root")
    collection.publish()
    return collection


@pytest.fixture
def gateway(loop: LoopThread, collection: Collection) -> Iterator[Running]:
    with running(loop, collection) as gateway:
        yield gateway


def running(loop: LoopThread, collection: Collection, **options: Any) -> Running:
    options = {"updates": ALLOWED, "versions": {1: 0, 2: 9}, **options}
    return Serving(loop, collection, **options)


class Serving(Running):
    def __enter__(self) -> "Running":
        super().__enter__()
        self.client.wait_until_serving(20)
        return self


def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.02)


def refused(ask: Callable[[], Any]) -> QueryFailed:
    with pytest.raises(QueryFailed) as caught:
        ask()
    return caught.value


def names(gateway: Running, k: int = 3, image: bytes = NEW, **options: Any) -> list[str]:
    return [n.item.item_id for n in gateway.client.search(image=image, k=k, **options).neighbors]


def entries(collection: Collection) -> list[Any]:
    return list(read_from(open_store(collection.root), {}))


def test_what_is_upserted_is_found_at_once_by_every_way(gateway: Running) -> None:
    client = gateway.client
    attributes = {"label": "new", "number": 7, "weight": 0.5, "sold": True}
    done = client.upsert("new.png", NEW, attributes, uri="file:///new.png")
    sha256 = canonicalize(NEW).sha256
    assert (done.item_id, done.replaced, done.reindex_advised) == ("new.png", False, False)
    assert (done.sha256, done.release_id) == (sha256, gateway.collection.current)
    best = client.search(image=NEW, k=2).neighbors[0]
    assert (best.item.item_id, best.item.sha256, best.item.uri) == ("new.png", sha256, "file:///new.png")
    # As ingest does it: a boolean is a number.
    assert best.item.attributes == {"label": "new", "number": 7, "weight": 0.5, "sold": 1}
    assert best.score == pytest.approx(1, abs=1e-6) and best.item.thumbnail == b""
    assert names(gateway, filter='label = "new" and weight < 1 and sold = 1') == ["new.png"]
    assert client.search(image=NEW, k=9, filter="number = 7").matching == 2
    assert "new.png" not in [n.item.item_id for n in client.search(item_id="new.png", k=40).neighbors]
    [answer, item_answer] = client.batch_search([Query(image=NEW, k=1), Query(item_id="item-3.png", k=40)])
    assert answer.neighbors[0].item.item_id == "new.png"
    assert "new.png" in [n.item.item_id for n in item_answer.neighbors]
    assert client.get_item("new.png", thumbnail=True).thumbnail == NEW
    assert client.batch_get_items(["new.png", "nobody"])[0].width == 16


def test_what_is_replaced_or_deleted_comes_out_no_more(gateway: Running) -> None:
    client = gateway.client
    assert client.upsert("item-3.png", NEW).replaced
    assert names(gateway)[0] == "item-3.png"
    assert "item-3.png" not in names(gateway, 5, image=gateway.collection.images["item-3.png"])
    assert client.get_item("item-3.png").attributes == {}
    assert client.delete("item-3.png").found
    assert "item-3.png" not in names(gateway, 40)
    assert len(names(gateway, 40)) == 39
    assert refused(lambda: client.get_item("item-3.png")).code == "NOT_FOUND"
    assert refused(lambda: client.search(item_id="item-3.png")).code == "NOT_FOUND"
    assert not client.delete("item-3.png").found
    assert not client.delete("nobody has it").found
    # A later upsert brings it back.
    assert not client.upsert("item-3.png", NEW).replaced
    assert names(gateway)[0] == "item-3.png"


def test_batches_have_an_outcome_for_each(gateway: Running) -> None:
    client = gateway.client
    items = [NewItem(f"new-{i}", png(1000 + i), {"batch": i}) for i in range(20)]
    items[3] = NewItem("", NEW)
    items[5] = NewItem("broken", b"no image")
    items[7] = NewItem("new-8", NEW, {"batch": 7})
    gateway.encoder.rejects = {canonicalize(png(1009)).data}
    results = client.batch_upsert(items)
    failed = {i: (r.code, r.field) for i, r in enumerate(results) if isinstance(r, QueryFailed)}
    invalid = "INVALID_ARGUMENT"
    assert failed == {3: (invalid, "item_id"), 5: (invalid, "image"), 9: (invalid, "image")}
    assert all(isinstance(r, Upserted) for i, r in enumerate(results) if i not in failed)
    # Of two with one id the later one counts.
    assert client.get_item("new-8").attributes == {"batch": 8}
    deleted = client.batch_delete(["new-1", "", "nobody"], purge=True)
    assert [d.found if isinstance(d, Deleted) else d.field for d in deleted] == [True, "item_id", False]
    assert client.batch_get_items(["new-1", "new-2"])[0] is None
    tombstones = [e.change for e in entries(gateway.collection) if isinstance(e.change, Tombstone)]
    assert tombstones == [Tombstone("new-1", purge=True), Tombstone("nobody", purge=True)]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("item_id", ""),
        ("item_id", "x" * 1025),
        ("item_id", "a\0b"),
        ("item_id", "a\nb"),
        ("image", b""),
        ("image", b"no image"),
        ("uri", "x" * 4097),
        ("attributes", {"": "x"}),
        ("attributes", {"a": float("nan")}),
        ("attributes", {"a": "x" * 4097}),
        ("attributes", {"a\0": 1}),
        ("attributes", {str(i): i for i in range(65)}),
    ],
)
def test_what_is_wrong_is_named(gateway: Running, field: str, value: Any) -> None:
    given = {"item_id": "new", "image": NEW, "attributes": {}, "uri": "", field: value}
    error = refused(lambda: gateway.client.upsert(**given))
    assert (error.code, error.field) == ("INVALID_ARGUMENT", field), error
    assert entries(gateway.collection) == []


def test_bytes_that_are_no_text_are_refused(gateway: Running) -> None:
    # item_id, which protobuf's own classes would not even write.
    upsert = gateway.raw("/lookalike.retrieval.v1.RetrievalService/Upsert")
    with pytest.raises(grpc.RpcError) as caught:
        upsert(b"\x0a\x02\xff\xfe")
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("method", ["upsert", "delete"])
def test_batches_have_a_size(gateway: Running, method: str) -> None:
    client = gateway.client
    if method == "upsert":
        calls = [lambda: client.batch_upsert([]), lambda: client.batch_upsert([NewItem("a", NEW)] * 257)]
    else:
        calls = [lambda: client.batch_delete([]), lambda: client.batch_delete(["a"] * 1001)]
    for call in calls:
        error = refused(call)
        assert (error.code, error.field) == ("INVALID_ARGUMENT", "requests")


def test_updates_are_not_taken_unless_told(loop: LoopThread, collection: Collection) -> None:
    with running(loop, collection, updates=Updates()) as gateway:
        for ask in (lambda: gateway.client.upsert("a", NEW), lambda: gateway.client.delete("a")):
            error = refused(ask)
            assert (error.code, error.reason) == ("FAILED_PRECONDITION", "UPDATES_NOT_ALLOWED")


def test_it_takes_an_admin_and_is_audited(
    loop: LoopThread, collection: Collection, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    read, admin = tmp_path / "read", tmp_path / "admin"
    read.write_text("shop 0123456789abcdef0123\n")
    admin.write_text("ops fedcba98765432100123\n")
    options = {"security": Security(read_tokens=str(read), admin_tokens=str(admin)), "updates": Updates()}
    credentials = Credentials(token_file=str(admin))
    with caplog.at_level("INFO"), running(loop, collection, credentials=credentials, **options) as gateway:
        gateway.client.upsert("new", NEW)
        gateway.client.batch_delete(["new"])
        with Client(gateway.address, credentials=Credentials(token_file=str(read))) as reader:
            assert refused(lambda: reader.delete("item-1.png")).code == "PERMISSION_DENIED"
            assert refused(lambda: reader.upsert("new", NEW)).code == "PERMISSION_DENIED"
    audit = [record.fields for record in caplog.records if record.name == "serving.audit"]
    assert [(line["method"], line["principal"], line["code"]) for line in audit] == [
        ("Upsert", "ops", "OK"),
        ("BatchDelete", "ops", "OK"),
        ("Delete", "shop", "PERMISSION_DENIED"),
        ("Upsert", "shop", "PERMISSION_DENIED"),
    ]


def test_without_the_encoder_nothing_is_written_and_deletes_go_on(gateway: Running) -> None:
    gateway.encoder.fails_with = grpc.StatusCode.UNAVAILABLE
    error = refused(lambda: gateway.client.upsert("new", NEW))
    assert (error.code, error.reason) == ("UNAVAILABLE", "ENCODER_UNAVAILABLE")
    assert entries(gateway.collection) == []
    assert gateway.client.delete("item-3.png").found


def test_a_journal_that_cannot_be_written_is_no_acknowledgement(gateway: Running) -> None:
    (gateway.collection.root / "journal").write_text("in the way")
    error = refused(lambda: gateway.client.upsert("new", NEW))
    assert (error.code, error.reason) == ("UNAVAILABLE", "STORE_UNAVAILABLE")
    assert "new" not in names(gateway, 40)
    (gateway.collection.root / "journal").unlink()
    gateway.client.upsert("new", NEW)
    assert names(gateway)[0] == "new"


def test_updates_have_a_limit_of_their_own(loop: LoopThread, collection: Collection) -> None:
    with running(loop, collection, updates=Updates(allow_updates=True, updates_in_flight=1)) as gateway:
        gateway.encoder.delay = 60.0
        stub = gateway.client._stub
        first = stub.Upsert.future(retrieval_pb2.UpsertRequest(item_id="new", image=NEW))
        until(lambda: len(gateway.encoder.asked) > 1)
        error = refused(lambda: gateway.client.delete("item-1.png"))
        assert (error.code, error.reason) == ("RESOURCE_EXHAUSTED", "OVERLOADED")
        assert len(gateway.client.search(vector=[1.0] * 16, k=40).neighbors) == 40
        first.cancel()
        until(lambda: admitted(gateway))


def admitted(gateway: Running) -> bool:
    try:
        return gateway.client.delete("nobody").item_id == "nobody"
    except QueryFailed:
        return False


def test_too_many_items_are_said_and_refused(loop: LoopThread, collection: Collection) -> None:
    updates = Updates(allow_updates=True, advise_items=3, max_items=4)
    with running(loop, collection, updates=updates) as gateway:
        client = gateway.client
        advised = [client.upsert(f"new {i}", png(900 + i)).reindex_advised for i in range(4)]
        assert advised == [False, False, True, True]
        error = refused(lambda: client.upsert("one more", NEW))
        assert (error.code, error.reason) == ("RESOURCE_EXHAUSTED", "UPDATES_FULL")
        assert client.delete("new 0").found and client.delete("item-3.png").reindex_advised
        client.upsert("one more", NEW)
        assert names(gateway)[0] == "one more"


def test_others_see_it_and_a_restart_loses_nothing(loop: LoopThread, collection: Collection) -> None:
    with running(loop, collection) as one, running(loop, collection, updates=Updates(journal_seconds=0.05)) as other:
        one.client.upsert("new", NEW)
        one.client.delete("item-3.png")
        until(lambda: names(other)[0] == "new")
        until(lambda: other.client.batch_get_items(["item-3.png"]) == [None])
    with running(loop, collection) as again:
        # The first answer after SERVING.
        assert names(again)[0] == "new"
        assert again.client.batch_get_items(["item-3.png"]) == [None]


def test_it_works_the_same_on_an_object_store(loop: LoopThread, collection: Collection) -> None:
    store = open_store(f"memory://{uuid.uuid4().hex}")
    for file in sorted(collection.root.rglob("*")):
        if file.is_file():
            store.put(file, file.relative_to(collection.root).as_posix())
    options = {"serving_root": store.uri}
    with running(loop, collection, **options) as one, running(loop, collection, **options) as other:
        one.client.batch_upsert([NewItem(f"new-{i}", png(777 + i)) for i in range(5)])
        one.client.delete("new-4")
        other.client.delete("item-3.png")
        until(lambda: names(other)[0] == "new-0")
        until(lambda: one.client.batch_get_items(["item-3.png"]) == [None])
    with running(loop, collection, **options) as again:
        found = again.client.batch_get_items(["new-0", "new-3", "new-4", "item-3.png"])
        assert [item and item.item_id for item in found] == ["new-0", "new-3", None, None]
    store.delete("")


def test_the_later_of_two_writers_wins_whatever_their_clocks_say(loop: LoopThread, collection: Collection) -> None:
    # A gateway whose clock is half a minute ahead has deleted it.
    ahead = JournalWriter(open_store(collection.root), "0" * 32, clock=clock_ahead(30_000))
    ahead.append([Tombstone("item-3.png")])
    with running(loop, collection) as gateway:
        assert gateway.client.batch_get_items(["item-3.png"]) == [None]
        gateway.client.upsert("item-3.png", NEW)
        assert names(gateway)[0] == "item-3.png"
    with running(loop, collection) as again:
        assert names(again)[0] == "item-3.png"


def test_a_clock_that_is_far_ahead_is_an_error_and_no_lost_update(loop: LoopThread, collection: Collection) -> None:
    ahead = JournalWriter(open_store(collection.root), "0" * 32, clock=clock_ahead(3_600_000))
    ahead.append([Tombstone("item-3.png")])
    with running(loop, collection) as gateway:
        error = refused(lambda: gateway.client.upsert("item-3.png", NEW))
        assert (error.code, error.reason) == ("FAILED_PRECONDITION", "CLOCK_AHEAD")
        gateway.client.upsert("another", NEW)
        assert names(gateway)[0] == "another"


def clock_ahead(milliseconds: int) -> Any:
    return HybridClock("0" * 32, lambda: wall_milliseconds() + milliseconds)


def test_another_encoder_embeds_what_was_upserted_before_it_is_served(loop: LoopThread, collection: Collection) -> None:
    first = collection.current
    with running(loop, collection) as gateway:
        client = gateway.client
        client.upsert("new", NEW)
        client.delete("item-3.png")
        second = collection.publish(seed=9)
        until(lambda: client.get_release().release_id == second)
        answer = client.search(image=NEW, k=1)
        assert (answer.release_id, answer.neighbors[0].item.item_id) == (second, "new")
        assert answer.neighbors[0].score == pytest.approx(1, abs=1e-6)
        vector = embed([NEW], seed=9)[0].tolist()
        assert client.search(vector=vector, k=1).neighbors[0].item.item_id == "new"
        assert client.batch_get_items(["item-3.png"]) == [None]
        # What is held for pins honours deletes; what only the new encoder has seen is not in it.
        client.delete("item-4.png")
        client.upsert("item-5.png", png(778))
        held = client.batch_get_items(["item-3.png", "item-4.png", "new"], release_id=first)
        assert [item and item.item_id for item in held] == [None, None, "new"]
        assert "item-5.png" not in names(gateway, 40, release_id=first)
        # Back: then it is, too.
        collection.point_at(first)
        until(lambda: client.get_release().release_id == first)
        assert names(gateway, image=png(778))[0] == "item-5.png"
        assert names(gateway)[0] == "new"
        assert client.batch_get_items(["item-3.png", "item-4.png"]) == [None, None]


def test_a_release_waits_for_its_encoder_to_embed_what_was_upserted(loop: LoopThread, collection: Collection) -> None:
    with running(loop, collection, versions={1: 0}) as gateway:
        gateway.client.upsert("new", NEW)
        first, second = collection.current, collection.publish(seed=9)
        # Another encoder than the release's: the probe says no; it isn't there at all: it waits.
        until(lambda: (2, 2) in gateway.encoder.asked)
        assert gateway.client.get_release().release_id == first
        gateway.encoder.versions[2] = 9
        until(lambda: gateway.client.get_release().release_id == second)
        assert names(gateway)[0] == "new"


def test_what_nobody_has_embedded_is_embedded_by_who_reads_it(gateway: Running) -> None:
    writer = JournalWriter(open_store(gateway.collection.root))
    data = canonicalize(NEW)
    writer.append([Upsert("new", data.data, data.sha256, data.width, data.height)])
    until(lambda: names(gateway)[0] == "new")
    # Not while the encoder is away; then it is.
    gateway.encoder.fails_with = grpc.StatusCode.UNAVAILABLE
    other = canonicalize(png(778))
    writer.append([Upsert("other", other.data, other.sha256, 16, 16), Tombstone("item-3.png")])
    until(lambda: gateway.client.batch_get_items(["item-3.png"]) == [None])
    assert gateway.client.batch_get_items(["other"]) == [None]
    gateway.encoder.fails_with = None
    until(lambda: gateway.client.batch_get_items(["other"]) != [None])


def test_what_an_encoder_rejects_hides_nothing_else(gateway: Running) -> None:
    writer = JournalWriter(open_store(gateway.collection.root))
    bad, good = canonicalize(NEW), canonicalize(png(778))
    gateway.encoder.rejects = {bad.data}
    writer.append([Upsert("bad", bad.data, bad.sha256, 16, 16), Upsert("good", good.data, good.sha256, 16, 16)])
    until(lambda: gateway.client.batch_get_items(["good"]) != [None])
    assert gateway.client.batch_get_items(["bad"]) == [None]


def test_a_release_that_holds_the_updates_needs_nothing_beside_it(loop: LoopThread, collection: Collection) -> None:
    with running(loop, collection) as gateway:
        client = gateway.client
        client.upsert("new", NEW, {"label": "new"})
        client.delete("item-3.png")
        release_id = reindex(collection)
        until(lambda: client.get_release().release_id == release_id)
        builder = gateway._gateway._following.current
        assert (builder.count, builder.hidden) == (0, 0)
        assert builder.searcher.view is builder.searcher
        assert names(gateway, filter='label = "new"') == ["new"]
        assert client.batch_get_items(["item-3.png"]) == [None]
        # An older stamp than what the release holds changes nothing; a later one does.
        assert client.delete("new").found
        assert client.batch_get_items(["new"]) == [None]


def reindex(collection: Collection) -> str:
    """Publishes a release of what the collection now is, as a reindex does; returns its id."""
    store = open_store(collection.root)
    state = collection.root.parent / "state.sqlite"
    folded = fold(store, None, {}, state)
    updates = UpdatesState(state)
    images = {name: png(int(name.removeprefix("item-").removesuffix(".png"))) for name in collection.images}
    items = {name: collection._item(name) for name in images}
    for gone in updates.tombstones():
        images.pop(gone.item_id, None)
    for live in updates.upserts():
        images[live.item_id] = store.read(f"contents/{live.sha256[:2]}/{live.sha256}")
        items[live.item_id] = Item(live.item_id, live.uri, live.sha256, live.width, live.height, live.attributes)
    updates.close()
    probes = [png(9000), png(9001)]
    answers = embed(probes, dimension=collection.dimension)
    published = publish_release(
        collection.root,
        collection.root.parent / f"reindex-{heads(store)}"[:40],
        items=[items[name] for name in images],
        embeddings=np.asarray(embed(list(images.values()), dimension=collection.dimension)),
        shards=2,
        probes=[Probe(image, answer) for image, answer in zip(probes, answers, strict=True)],
        updates=state,
        watermark=folded.watermark,
    )
    return published.release_id
