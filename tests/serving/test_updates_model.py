"""Two gateways over one serving root against a dictionary: nothing acknowledged is lost, nothing deleted returns.

Everything is real but the encoder, the network, and the clock; gateways are killed by being forgotten.
"""

import contextlib
import hashlib
import pathlib
import shutil
import tempfile
import uuid
from collections.abc import Sequence
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from serving.gateway.watcher import Watcher
from serving.journal.clock import HybridClock
from serving.journal.state import UpdatesState, fold
from serving.journal.writer import JournalWriter
from serving.release.current import read_current, write_current
from serving.release.encoder_info import Probe
from serving.release.items import Item
from serving.release.reader import read_manifest
from serving.release.updates import local_updates
from serving.search import errors
from serving.search.changes import ItemDelete, ItemUpsert
from serving.search.deadline import Deadline
from serving.search.decoding import Decoder
from serving.search.embedding import Embedder
from serving.search.following import Following
from serving.search.held import Held
from serving.search.searcher import Searcher
from serving.search.updates import Updates
from serving.search.view import View, Wanted
from serving.search.workers import Workers
from serving.storage import LocalStore, open_store
from tests.serving.loop_thread import LoopThread
from tests.serving.release_builder import png, publish_release

DIMENSION = 8
CONTENTS = [png(seed) for seed in range(12)]
FOLDER = {f"file-{i}": CONTENTS[i] for i in range(6)}
IDS = [*FOLDER, "new-0", "new-1", "new-2"]
PROBES = [png(100), png(101)]


def sha256(image: bytes) -> str:
    return hashlib.sha256(image).hexdigest()


def embed(images: Sequence[bytes], seed: int) -> np.ndarray:
    """Returns float32 `[N, DIMENSION]` of unit length: a function of the bytes, another one for each seed."""
    digests = [hashlib.sha256(image + bytes([seed])).digest() for image in images]
    vectors = np.array([np.frombuffer(d[:DIMENSION], np.uint8) for d in digests], np.float64) - 127.5
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


class HashingEncoder:
    """An encoder of every version. seeds: by version."""

    def __init__(self) -> None:
        self.seeds: dict[int, int] = {}

    async def encode(self, images: Sequence[bytes], *, model: str, version: int, timeout: float) -> np.ndarray:
        return embed(images, self.seeds[version])

    async def available(self, *, model: str, version: int, timeout: float) -> bool:
        return True


class Dying(LocalStore):
    """A folder. dies: when the process dies that next creates a file: `before` or `after`."""

    dies = ""

    def create(self, path: str, data: bytes) -> None:
        if self.dies != "before":
            super().create(path, data)
        if self.dies:
            raise OSError("the process has died.")


class InProcess:
    """What a gateway consists of, without the network. To be used in the event loop."""

    def __init__(self, root: pathlib.Path, encoder: HashingEncoder, wall: Any) -> None:
        self.store = Dying(root)
        self.held = Held(keep_releases=1, keep_seconds=1e9)
        self.workers = Workers(1, 16)
        self.decoder = Decoder(self.workers)
        self.following = Following(self.store, self.held, encoder, lambda item: item, advise_items=1000)
        prepare = lambda release: Searcher(release, lambda item: item, cached_items=3)  # noqa: E731
        self.watcher = Watcher(self.store, self.held, encoder, prepare, self.following, cache=None)
        writer_id = uuid.uuid4().hex
        self.updates = Updates(
            self.held,
            Embedder(encoder, self.decoder),
            self.workers,
            self.following,
            JournalWriter(self.store, writer_id, clock=HybridClock(writer_id, wall)),
            in_flight=16,
            max_items=1000,
        )

    async def look(self) -> None:
        """Sees what the others have written."""
        await self.following.poll()

    async def end(self) -> None:
        """Ends it, at whatever it was: nothing here is for the next one to find."""
        self.workers.close()
        await self.following.close()
        await self.decoder.processes.close()
        self.watcher.close()
        self.held.flip(None)


class UpdatesModel(RuleBasedStateMachine):
    """model: what the collection is, item id to image."""

    loop: LoopThread

    def __init__(self) -> None:
        super().__init__()
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="updates-model-"))
        self.root = self.folder / "root"
        self.store = open_store(self.root)
        self.encoder = HashingEncoder()
        self.model = dict(FOLDER)
        self.releases: list[str] = []
        self.now = 1_000_000_000_000
        self.skews = [0, 0]
        self.skewed = False
        self.gateways: list[InProcess] = []

    @initialize()
    def begin(self) -> None:
        self._publish(0)
        for i in range(2):
            self.gateways.append(self._started(i))

    @rule(i=st.integers(0, 1), name=st.sampled_from(IDS), content=st.sampled_from(CONTENTS), look=st.booleans())
    def upsert(self, i: int, name: str, content: bytes, look: bool) -> None:
        self._before(i, look)
        done = self._run(self.gateways[i].updates.upsert(ItemUpsert(name, content), Deadline(60)))
        assert done.sha256 == sha256(content)
        self.model[name] = content
        assert self._sha256s(self.gateways[i]).get(name) == sha256(content)

    @rule(i=st.integers(0, 1), name=st.sampled_from([*IDS, "nobody"]), look=st.booleans())
    def delete(self, i: int, name: str, look: bool) -> None:
        self._before(i, look)
        done = self._run(self.gateways[i].updates.delete(ItemDelete(name), Deadline(60)))
        assert not look or done.known == (name in self.model)
        self.model.pop(name, None)
        assert name not in self._sha256s(self.gateways[i])

    @rule(i=st.integers(0, 1), names=st.lists(st.sampled_from(IDS), min_size=2, max_size=5))
    def upsert_together(self, i: int, names: list[str]) -> None:
        self._before(i, True)
        items = [ItemUpsert(name, CONTENTS[place]) for place, name in enumerate(names)]
        self._run(self.gateways[i].updates.batch_upsert(items, Deadline(60)))
        self.model.update((item.item_id, item.image) for item in items)

    @rule(
        i=st.integers(0, 1),
        name=st.sampled_from(IDS),
        content=st.sampled_from([*CONTENTS, None]),
        when=st.sampled_from(["before", "after"]),
    )
    def die_of_a_change(self, i: int, name: str, content: bytes | None, when: str) -> None:
        """Killed right before the change was durable, or right after, and acknowledged in neither case."""
        self._before(i, True)
        gateway = self.gateways[i]
        gateway.store.dies = when
        change: Any = gateway.updates.delete(ItemDelete(name), Deadline(60))
        if content is not None:
            change.close()
            change = gateway.updates.upsert(ItemUpsert(name, content), Deadline(60))
        with pytest.raises(errors.StoreUnavailable):
            self._run(change)
        if when == "after":
            # It is in the journal, so it must not be half there.
            self.model.pop(name, None)
            if content is not None:
                self.model[name] = content
        self.restart(i)

    @rule(seed=st.sampled_from([0, 0, 1]))
    def reindex(self, seed: int) -> None:
        self._publish(seed)

    @rule(i=st.integers(0, 1))
    def follow(self, i: int) -> None:
        """The gateway takes up what CURRENT names."""
        self._run(self.gateways[i].watcher.poll())
        current = self.gateways[i].held.current
        assert current is not None and current.manifest.release_id == read_current(self.store)

    @rule(which=st.integers(0, 5))
    def roll_back(self, which: int) -> None:
        write_current(self.store, self.releases[which % len(self.releases)])

    @rule(i=st.integers(0, 1))
    def restart(self, i: int) -> None:
        self._run(self.gateways[i].end())
        self.gateways[i] = self._started(i)
        # Before anybody has looked again.
        self._compare(self.gateways[i])

    @rule(i=st.integers(0, 1), seconds=st.sampled_from([-20, 20, 0]))
    def skew(self, i: int, seconds: int) -> None:
        self.skews[i] = 1000 * seconds
        self.skewed = True

    @rule(i=st.integers(0, 1))
    def compare(self, i: int) -> None:
        self._run(self.gateways[i].look())
        self._compare(self.gateways[i])

    def teardown(self) -> None:
        try:
            for gateway in self.gateways:
                self._run(gateway.look())
                self._compare(gateway)
        finally:
            for gateway in self.gateways:
                self._run(gateway.end())
            shutil.rmtree(self.folder)

    def _started(self, i: int) -> InProcess:
        async def start() -> InProcess:
            gateway = InProcess(self.root, self.encoder, lambda: self.now + self.skews[i])
            assert await gateway.watcher.poll()
            return gateway

        return self.loop.run(start())

    def _before(self, i: int, look: bool) -> None:
        # Who has not seen another's change, and whose clock is behind, makes an earlier one.
        if look or self.skewed:
            self._run(self.gateways[i].look())
        self.now += 1

    def _compare(self, gateway: InProcess) -> None:
        expected = {name: sha256(image) for name, image in self.model.items()}
        assert self._sha256s(gateway) == expected
        with gateway.held.take() as holding:
            seed = self.encoder.seeds[holding.release.manifest.encoder.version]
            view = holding.view
            for image in set(self.model.values()):
                found = view.find(embed([image], seed)[0], Wanted(100), None)
                named = [item.item_id for item in view.load(found.rows)]
                assert sorted(named) == sorted(expected)
                alike = sorted(name for name, content in self.model.items() if content == image)
                assert named[: len(alike)] == alike
                assert min(found.scores[: len(alike)]) > 0.9999
        for kept in gateway.held.take_all():
            with kept:
                # It may lack what another encoder has embedded, but it holds nothing that is no longer so.
                assert self._items(kept.view).items() <= expected.items()

    def _sha256s(self, gateway: InProcess) -> dict[str, str]:
        with gateway.held.take() as holding:
            return self._items(holding.view)

    def _items(self, view: View[Item]) -> dict[str, str]:
        rows = view.rows_of([*IDS, "nobody"])
        return {name: item.sha256 for name, item in zip(rows, view.items(list(rows.values())), strict=True)}

    def _publish(self, seed: int) -> None:
        """A reindex: CURRENT's state and the journal, folded; the folder, and what they say of it."""
        work = self.folder / f"run-{len(list(self.folder.iterdir()))}"
        state = work / "state.sqlite"
        current = read_current(self.store)
        manifest = read_manifest(self.store, current) if current else None
        with contextlib.ExitStack() as stack:
            base = stack.enter_context(local_updates(self.store, manifest)) if manifest else None
            folded = fold(self.store, base, manifest.watermark if manifest else {}, state)
        images = dict(FOLDER)
        with contextlib.closing(UpdatesState(state)) as updates:
            for item in updates:
                images.pop(item.item_id, None)
                if not item.deleted:
                    images[item.item_id] = self.store.read(f"contents/{item.sha256[:2]}/{item.sha256}")
        if not images:
            # There is no release of nothing.
            return
        published = publish_release(
            self.root,
            work / "release",
            items=[Item(name, "", sha256(image), 16, 16) for name, image in sorted(images.items())],
            embeddings=embed([image for _, image in sorted(images.items())], seed),
            encoder_seed=seed,
            probes=[Probe(image, row) for image, row in zip(PROBES, embed(PROBES, seed), strict=True)],
            updates=state,
            watermark=folded.watermark,
        )
        self.encoder.seeds[published.manifest.encoder.version] = seed
        if published.release_id not in self.releases:
            self.releases.append(published.release_id)

    def _run(self, work: Any) -> Any:
        return self.loop.run(work)


@pytest.mark.slow
def test_nothing_acknowledged_is_lost_and_nothing_deleted_returns(loop: LoopThread) -> None:
    UpdatesModel.loop = loop
    settings = hypothesis.settings(
        max_examples=30,
        stateful_step_count=40,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    run_state_machine_as_test(UpdatesModel, settings=settings)
