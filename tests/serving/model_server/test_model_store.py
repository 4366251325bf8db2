"""The store with real folders and threads; only what is loaded is a stand-in."""

import shutil
import threading
import time

import grpc
import pytest

from serving.model_server.config import LoadOptions, ModelConfig
from serving.model_server.errors import ServingError
from serving.model_server.model_store import ModelStore
from serving.model_server.versions import All, Latest, State
from tests.conformance.process import wait_until


class Loaded:
    """What the store closes."""

    def __init__(self, version):
        self.version = version
        self.closed = threading.Event()

    def close(self):
        self.closed.set()


class Loading:
    """Loads folders; those that hold a file `broken` fail. gate: what loads wait for."""

    def __init__(self):
        self.calls = []
        self.loaded = {}
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, name, version, folder):
        self.calls.append(version)
        assert self.gate.wait(20)
        if (folder / "broken").exists():
            raise ServingError(grpc.StatusCode.DATA_LOSS, f"version {version} is broken")
        self.loaded[version] = Loaded(version)
        return self.loaded[version]


@pytest.fixture
def loading():
    return Loading()


@pytest.fixture
def start(loading):
    stores = []

    def start(*configs, **options):
        stores.append(ModelStore(loading, LoadOptions(**{"poll_seconds": 0.02, "retries": 0, **options})))
        stores[-1].start(configs)
        return stores[-1]

    yield start
    loading.gate.set()
    for store in stores:
        store.stop()


def add(base, *names, broken=False):
    for name in names:
        folder = base / f".{name}.tmp"
        folder.mkdir(parents=True)
        if broken:
            (folder / "broken").touch()
        folder.rename(base / str(name))


def states(store, name="m"):
    try:
        return {status.version: status.state.name for status in store.status(name)}
    except ServingError:
        return {}


def test_largest_version_first(tmp_path, start, loading):
    add(tmp_path, 1, 2, 10)
    store = start(ModelConfig("m", tmp_path, All()))
    assert store.wait_until_tried(["m"], 10)
    assert loading.calls == [10, 2, 1]
    with store.get("m") as handle:
        assert handle.version == 10


def test_new_version_before_the_old_one_goes(tmp_path, start, loading):
    add(tmp_path, 1)
    store = start(ModelConfig("m", tmp_path, Latest(1)))
    assert store.wait_until_tried(["m"], 10)
    loading.gate.clear()
    add(tmp_path, 2)
    wait_until(lambda: states(store).get(2) == "LOADING")
    assert states(store)[1] == "AVAILABLE"
    loading.gate.set()
    wait_until(lambda: states(store) == {2: "AVAILABLE", 1: "END"})
    assert loading.loaded[1].closed.is_set()


def test_broken_version_leaves_the_old_one(tmp_path, start):
    add(tmp_path, 1)
    store = start(ModelConfig("m", tmp_path, Latest(1)))
    assert store.wait_until_tried(["m"], 10)
    add(tmp_path, 2, broken=True)
    wait_until(lambda: states(store).get(2) == "END")
    assert states(store) == {2: "END", 1: "AVAILABLE"}
    (broken,) = store.status("m", 2)
    assert (broken.error.code, broken.error.message) == (grpc.StatusCode.DATA_LOSS, "version 2 is broken")


def test_retries_go_on_beside_other_loads(tmp_path, start, loading):
    add(tmp_path, 1, 3)
    add(tmp_path, 2, broken=True)
    store = start(ModelConfig("m", tmp_path, All()), retries=3, retry_seconds=0.05)
    wait_until(lambda: states(store).get(2) == "END")
    assert loading.calls == [3, 2, 1, 2, 2, 2]


def test_a_retry_succeeds_once_the_version_is_whole(tmp_path, start):
    add(tmp_path, 1, broken=True)
    store = start(ModelConfig("m", tmp_path, All()), retries=100, retry_seconds=0.05)
    assert store.wait_until_tried(["m"], 10)
    assert states(store) == {1: "LOADING"}
    (tmp_path / "1" / "broken").unlink()
    wait_until(lambda: states(store) == {1: "AVAILABLE"})


def test_a_version_that_goes_between_two_attempts_is_not_tried_again(tmp_path, start, loading):
    add(tmp_path, 1)
    add(tmp_path, 2, broken=True)
    store = start(ModelConfig("m", tmp_path, All()), retries=5, retry_seconds=0.2)
    assert store.wait_until_tried(["m"], 10)
    shutil.rmtree(tmp_path / "2")
    wait_until(lambda: states(store) == {1: "AVAILABLE", 2: "END"})
    time.sleep(0.3)
    assert loading.calls == [2, 1]


def test_a_version_that_goes_while_it_loads_is_unloaded(tmp_path, start, loading):
    add(tmp_path, 1)
    store = start(ModelConfig("m", tmp_path, All()))
    assert store.wait_until_tried(["m"], 10)
    loading.gate.clear()
    add(tmp_path, 2)
    wait_until(lambda: states(store).get(2) == "LOADING")
    shutil.rmtree(tmp_path / "2")
    time.sleep(0.1)
    loading.gate.set()
    wait_until(lambda: states(store) == {1: "AVAILABLE", 2: "END"})
    assert loading.loaded[2].closed.is_set()


def test_a_version_in_use_is_closed_after_its_last_request(tmp_path, start, loading):
    add(tmp_path, 1, 2)
    store = start(ModelConfig("m", tmp_path, All()))
    assert store.wait_until_tried(["m"], 10)
    with store.get("m", 2), store.get("m", 2):
        shutil.rmtree(tmp_path / "2")
        wait_until(lambda: states(store) == {1: "AVAILABLE", 2: "UNLOADING"})
        # Others come and go meanwhile.
        add(tmp_path, 3)
        wait_until(lambda: states(store).get(3) == "AVAILABLE")
        assert not loading.loaded[2].closed.is_set()
    wait_until(lambda: states(store)[2] == "END")
    assert loading.loaded[2].closed.is_set()


def test_it_returns_when_it_comes_back(tmp_path, start):
    add(tmp_path, 1)
    store = start(ModelConfig("m", tmp_path, All()))
    for _ in range(3):
        wait_until(lambda: states(store) == {1: "AVAILABLE"})
        shutil.rmtree(tmp_path / "1")
        wait_until(lambda: states(store) == {1: "END"})
        add(tmp_path, 1)


def test_waits_for_the_first_version(tmp_path, start):
    store = start(ModelConfig("m", tmp_path / "later", All()))
    assert not store.wait_until_tried(["m"], 0.2)
    add(tmp_path / "later", 1)
    assert store.wait_until_tried(["m"], 10)


def test_polling_once(tmp_path, start):
    add(tmp_path, 1)
    store = start(ModelConfig("m", tmp_path, All()), poll_seconds=0)
    assert store.wait_until_tried(["m"], 10)
    add(tmp_path, 2)
    time.sleep(0.2)
    assert states(store) == {1: "AVAILABLE"}


def test_labels_at_the_start_need_the_switch(tmp_path, start):
    config = ModelConfig("m", tmp_path, All(), (("stable", 1),))
    with pytest.raises(ServingError, match="assign label to version 1 of model m, which is not currently available"):
        start(config)
    store = start(config, labels_for_unavailable=True)
    assert store.version_of("m", "stable") == 1


def test_stopping_ends_a_wait(tmp_path, start):
    store = start(ModelConfig("m", tmp_path, All()))
    waiting = threading.Thread(target=store.wait_until_tried, args=(["m"],))
    waiting.start()
    store.stop()
    waiting.join(5)
    assert not waiting.is_alive()


def test_state_numbers_are_tf_servings():
    from tensorflow_serving.apis import get_model_status_pb2

    names = get_model_status_pb2.ModelVersionStatus.State
    assert {state.name: int(state) for state in State} == dict(names.items())
