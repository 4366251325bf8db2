"""Which versions are served, and how each one stands. How to run it against a real server: test_predict.py."""

import shutil
import threading
import time

import grpc
import pytest
import tensorflow as tf
from grpc_health.v1 import health_pb2
from tensorflow_serving.apis import get_model_status_pb2

from tests.conformance.process import wait_until
from tests.conformance.target import AVAILABLE, END, LOADING, START, TIMEOUT, UNLOADING, floats, refused

pytestmark = pytest.mark.slow


@pytest.fixture
def live(folders):
    """The model whose folder the tests change; they leave version 1 behind."""
    yield folders
    for child in (folders.base / "live").iterdir():
        if child.name != "1":
            shutil.rmtree(child)
    if not (folders.base / "live" / "1").exists():
        folders.add_version("live", 1)
    wait_until(lambda: [v for v, state in folders.states("live").items() if state != END] == [1])
    folders.wait_for("live", 1, AVAILABLE)


def test_all_versions(target):
    assert target.states("encoder") == {2: AVAILABLE, 1: AVAILABLE}
    assert [target.version_of("encoder", version=version) for version in (1, 2)] == [1, 2]


def test_latest_versions_and_what_is_no_version(target):
    assert target.states("latest_two") == {3: AVAILABLE, 2: AVAILABLE}
    assert target.version_of("latest_two", version=3) == 3
    with refused(grpc.StatusCode.NOT_FOUND, "Specific(latest_two, 1)"):
        target.predict("latest_two", version=1)


def test_specific_versions(target):
    assert target.states("specific") == {3: AVAILABLE, 1: AVAILABLE}


def test_the_latest_one_by_default(target):
    assert target.states("by_default") == {2: AVAILABLE}


def test_unversioned_is_the_largest_available(target):
    assert target.version_of("encoder") == 2
    assert target.version_of("specific") == 3


def test_labels(target):
    assert target.version_of("encoder", version_label="stable") == 1
    assert target.version_of("encoder", version_label="canary") == 2


def test_status_names_a_version_and_is_ok(target):
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = "encoder"
    request.model_spec.version.value = 1
    (status,) = target.model.GetModelStatus(request, timeout=TIMEOUT).model_version_status
    assert (status.version, status.state, status.status.error_code) == (1, AVAILABLE, 0)
    assert not status.status.error_message


def test_status_lists_the_largest_first(target):
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = "encoder"
    statuses = target.model.GetModelStatus(request, timeout=TIMEOUT).model_version_status
    assert [status.version for status in statuses] == [2, 1]


def test_status_of_what_is_not_there(target):
    request = get_model_status_pb2.GetModelStatusRequest()
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "Missing ModelSpec$"):
        target.model.GetModelStatus(request, timeout=TIMEOUT)
    request.model_spec.name = "nobody"
    with refused(grpc.StatusCode.NOT_FOUND, "Could not find any versions of model nobody$"):
        target.model.GetModelStatus(request, timeout=TIMEOUT)
    request.model_spec.name = "encoder"
    request.model_spec.version.value = 7
    with refused(grpc.StatusCode.NOT_FOUND, "Could not find version 7 of model encoder$"):
        target.model.GetModelStatus(request, timeout=TIMEOUT)


@pytest.mark.parametrize("service", ["", "ModelService", "PredictionService"])
def test_health(target, service):
    answer = target.health.Check(health_pb2.HealthCheckRequest(service=service), timeout=TIMEOUT)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_health_of_an_unknown_service(target):
    with refused(grpc.StatusCode.NOT_FOUND):
        target.health.Check(health_pb2.HealthCheckRequest(service="nobody"), timeout=TIMEOUT)


def test_warm_up_ran_before_the_first_request(target):
    def count(by):
        response = target.predict("warm", "count", {"by": tf.make_tensor_proto(by, tf.int64)})
        return int(tf.make_ndarray(response.outputs["runs"]))

    # The model counts its own runs; its file has three, and other tests may have counted on.
    assert count(0) >= 3


def test_a_version_appears_and_goes(live):
    live.add_version("live", 2)
    live.wait_for("live", 2, AVAILABLE)
    assert live.version_of("live") == 2
    assert live.version_of("live", version=1) == 1
    shutil.rmtree(live.base / "live" / "2")
    live.wait_for("live", 2, END)
    assert live.version_of("live") == 1
    with refused(grpc.StatusCode.NOT_FOUND, "Servable not found for request: Specific(live, 2)$"):
        live.predict("live", version=2)


def test_a_version_returns_after_it_ended(live):
    for _ in range(2):
        live.add_version("live", 3)
        live.wait_for("live", 3, AVAILABLE)
        shutil.rmtree(live.base / "live" / "3")
        live.wait_for("live", 3, END)


def test_a_version_is_named_by_its_number(live):
    shutil.copytree(live.base / "spare" / "2", live.base / "live" / ".tmp")
    (live.base / "live" / ".tmp").rename(live.base / "live" / "0002")
    live.wait_for("live", 2, AVAILABLE)
    assert live.version_of("live", version=2) == 2


def test_states_while_versions_load(live):
    # Warming this one up takes 1.5 seconds; the smaller one waits for its turn.
    live.add_version("live", 5, "slow")
    live.wait_for("live", 5, LOADING)
    live.add_version("live", 4, "3")
    live.wait_for("live", 4, START)
    assert live.states("live")[1] == AVAILABLE
    # The old one answers meanwhile, to who names it and to who doesn't.
    assert live.version_of("live") == 1
    with refused(grpc.StatusCode.NOT_FOUND, "Specific(live, 5)"):
        live.predict("live", version=5)
    live.wait_for("live", 5, AVAILABLE)
    live.wait_for("live", 4, AVAILABLE)


def test_a_request_that_runs_outlives_its_version(live):
    live.add_version("live", 2)
    live.wait_for("live", 2, AVAILABLE)
    results = []

    def ask():
        results.append(live.predict("live", "slow", {"seconds": floats(1.5)}, version=2))

    thread = threading.Thread(target=ask)
    thread.start()
    time.sleep(0.3)
    shutil.rmtree(live.base / "live" / "2")
    live.wait_for("live", 2, UNLOADING)
    assert not results
    thread.join()
    assert results[0].model_spec.version.value == 2
    live.wait_for("live", 2, END)


def break_graph(folder):
    (folder / "saved_model.pb").write_bytes(b"not a saved model")


def break_variables(folder):
    # A copy that was cut short: the graph is there, its variables are not.
    shutil.rmtree(folder / "variables")


def break_data(folder):
    (data,) = (folder / "variables").glob("*.data*")
    data.write_bytes(data.read_bytes()[:100])


def break_folder(folder):
    (folder / "saved_model.pb").unlink()


# A number for each: how one of the same number ended before is still told until the next look at the folder.
@pytest.mark.parametrize(
    ("number", "damage"), [(11, break_graph), (12, break_variables), (13, break_data), (14, break_folder)]
)
def test_a_broken_version_ends_with_an_error_beside_a_good_one(live, number, damage):
    shutil.copytree(live.base / "spare" / "2", live.base / "live" / ".tmp")
    damage(live.base / "live" / ".tmp")
    (live.base / "live" / ".tmp").rename(live.base / "live" / str(number))
    live.wait_for("live", number, END)
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = "live"
    request.model_spec.version.value = number
    (status,) = live.model.GetModelStatus(request, timeout=TIMEOUT).model_version_status
    assert status.status.error_code != 0
    assert status.status.error_message
    assert live.states("live")[1] == AVAILABLE
    assert live.version_of("live") == 1


def test_a_version_that_cannot_warm_up_ends(live):
    live.add_version("live", 6, "unwarmable")
    live.wait_for("live", 6, END)
    assert live.version_of("live") == 1


def test_a_version_appears_under_load_without_an_error(live):
    stop = threading.Event()
    answers, errors = [], []

    def ask():
        while not stop.is_set():
            try:
                answers.append(live.version_of("live"))
            except (grpc.RpcError, AssertionError) as error:
                errors.append(error)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    live.add_version("live", 2)
    live.wait_for("live", 2, AVAILABLE)
    wait_until(lambda: answers[-1] == 2)
    stop.set()
    for thread in threads:
        thread.join()
    assert not errors
    assert set(answers) == {1, 2}


def test_an_emptied_base_path_unloads(folders):
    assert folders.version_of("emptied") == 1
    shutil.rmtree(folders.base / "emptied" / "1")
    folders.wait_for("emptied", 1, END)
    with refused(grpc.StatusCode.NOT_FOUND, "Servable not found for request: Latest(emptied)$"):
        folders.predict("emptied")
    folders.add_version("emptied", 1)
    folders.wait_for("emptied", 1, AVAILABLE)


def test_a_base_path_that_is_away_changes_nothing(live):
    away = live.base / "away"
    (live.base / "live").rename(away)
    time.sleep(1.5)
    assert live.states("live")[1] == AVAILABLE
    assert live.version_of("live") == 1
    away.rename(live.base / "live")
