"""HandleReloadConfigRequest: the whole list replaces the old. How to run it against a real server: test_predict.py."""

import grpc
import pytest
from google.protobuf import text_format
from tensorflow_serving.apis import model_management_pb2
from tensorflow_serving.config import model_server_config_pb2

from tests.conformance import models
from tests.conformance.process import wait_until
from tests.conformance.target import AVAILABLE, END, TIMEOUT, refused

pytestmark = pytest.mark.slow

INVALID = grpc.StatusCode.INVALID_ARGUMENT
PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION


@pytest.fixture
def reloaded(folders):
    """The server; its first configuration returns after the test."""
    yield folders
    folders.reload(first_config(folders))
    for model in ("encoder", "live"):
        folders.wait_for(model, 1, AVAILABLE)


def first_config(target):
    text = models.config_text(target.server_base)
    config = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
    return model_management_pb2.ReloadConfigRequest(config=config)


def model_in(request, name):
    (found,) = (model for model in request.config.model_config_list.config if model.name == name)
    return found


def add(request, name, base_path, platform="tensorflow"):
    return request.config.model_config_list.config.add(name=name, base_path=base_path, model_platform=platform)


def test_a_new_model_is_available_when_the_call_returns(reloaded):
    request = first_config(reloaded)
    add(request, "added", f"{reloaded.server_base}/encoder")
    response = reloaded.reload(request)
    assert response.status.error_code == 0
    assert reloaded.version_of("added") == 2
    assert reloaded.states("added") == {2: AVAILABLE}


def test_a_model_that_is_left_out_is_unloaded(reloaded):
    request = first_config(reloaded)
    request.config.model_config_list.config.remove(model_in(request, "live"))
    reloaded.reload(request)
    reloaded.wait_for("live", 1, END)
    with refused(grpc.StatusCode.NOT_FOUND, "Servable not found for request: Latest(live)$"):
        reloaded.predict("live")
    assert reloaded.version_of("encoder") == 2


def test_the_policy_changes(reloaded):
    request = first_config(reloaded)
    model_in(request, "encoder").ClearField("model_version_policy")
    model_in(request, "encoder").ClearField("version_labels")
    reloaded.reload(request)
    reloaded.wait_for("encoder", 1, END)
    assert reloaded.version_of("encoder") == 2


def test_a_label_moves_to_an_available_version(reloaded):
    request = first_config(reloaded)
    model_in(request, "encoder").version_labels["stable"] = 2
    reloaded.reload(request)
    assert reloaded.version_of("encoder", version_label="stable") == 2


def test_a_label_does_not_move_to_a_version_that_is_not_available(reloaded):
    request = first_config(reloaded)
    model_in(request, "encoder").version_labels["stable"] = 777
    with refused(
        PRECONDITION,
        "Request to assign label to version 777 of model encoder, which is not currently available for inference$",
    ):
        reloaded.reload(request)
    assert reloaded.version_of("encoder", version_label="stable") == 1


def test_a_new_model_that_is_broken(reloaded):
    (reloaded.base / "shattered" / "1").mkdir(parents=True, exist_ok=True)
    (reloaded.base / "shattered" / "1" / "saved_model.pb").write_bytes(b"not a saved model")
    request = first_config(reloaded)
    add(request, "shattered", f"{reloaded.server_base}/shattered")
    with refused(
        grpc.StatusCode.UNKNOWN,
        "1 model(s) did not become available: {{{name: shattered version: 1} due to error: ",
    ):
        reloaded.reload(request)
    assert reloaded.version_of("encoder") == 2


def test_a_model_twice(reloaded):
    request = first_config(reloaded)
    add(request, "encoder", f"{reloaded.server_base}/encoder")
    with refused(INVALID, "Illegal to list model encoder multiple times in config list$"):
        reloaded.reload(request)


def test_a_relative_path(reloaded):
    request = first_config(reloaded)
    add(request, "added", "encoder")
    with refused(INVALID, "Expected model added to have an absolute path or URI; got base_path()=encoder$"):
        reloaded.reload(request)


def test_a_model_without_a_platform(reloaded):
    request = first_config(reloaded)
    add(request, "added", f"{reloaded.server_base}/encoder", "")
    with refused(INVALID, "Illegal setting neither ModelServerConfig::model_type"):
        reloaded.reload(request)


def test_anything_but_a_list(reloaded):
    request = model_management_pb2.ReloadConfigRequest()
    request.config.custom_model_config.type_url = "x"
    with refused(INVALID, "Only ModelConfigList is currently supported"):
        reloaded.reload(request)


def test_a_model_whose_folder_comes_later(ours):
    request = first_config(ours)
    add(request, "later", f"{ours.server_base}/later")
    with refused(grpc.StatusCode.DEADLINE_EXCEEDED):
        ours.model.HandleReloadConfigRequest(request, timeout=0.5)
    (ours.base / "later").mkdir()
    ours.add_version("later", 1)
    ours.wait_for("later", 1, AVAILABLE)
    ours.reload(first_config(ours))
    wait_until(lambda: ours.states("later") == {1: END}, TIMEOUT)
