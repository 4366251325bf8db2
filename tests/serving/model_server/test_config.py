import pathlib

import pytest
from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from serving.model_server.config import LoadOptions, ModelConfig, from_proto, read_config_file, single_model
from serving.model_server.errors import ServingError
from serving.model_server.versions import All, Latest, Specific

TEXT = """
model_config_list {
  config {
    name: "encoder" base_path: "/models/encoder" model_platform: "tensorflow"
    model_version_policy { specific { versions: 3 versions: 5 } }
    version_labels { key: "stable" value: 3 }
  }
  config { name: "other" base_path: "/models/other" model_type: TENSORFLOW }
  config { name: "all" base_path: "/a" model_platform: "tensorflow" model_version_policy { all {} } }
  config { name: "two" base_path: "/b" model_platform: "tensorflow"
           model_version_policy { latest { num_versions: 2 } } }
}
"""


def test_a_config_file(tmp_path):
    file = tmp_path / "models.config"
    file.write_text(TEXT)
    assert read_config_file(file) == (
        ModelConfig("encoder", pathlib.Path("/models/encoder"), Specific(frozenset({3, 5})), (("stable", 3),)),
        ModelConfig("other", pathlib.Path("/models/other"), Latest(1)),
        ModelConfig("all", pathlib.Path("/a"), All()),
        ModelConfig("two", pathlib.Path("/b"), Latest(2)),
    )


def test_a_file_that_is_no_config(tmp_path):
    file = tmp_path / "models.config"
    file.write_text("models: 3")
    with pytest.raises(ValueError, match="is not a ModelServerConfig"):
        read_config_file(file)


def test_one_model_is_served_whole_from_an_absolute_path(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert single_model("encoder", pathlib.Path("base")) == (ModelConfig("encoder", tmp_path / "base", All()),)


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ('name: "" base_path: "/a" model_platform: "tensorflow"', "needs a name"),
        ('name: "m" base_path: "a" model_platform: "tensorflow"', "absolute path"),
        ('name: "m" base_path: "" model_platform: "tensorflow"', "absolute path"),
        ('name: "m" base_path: "/a"', "Illegal setting neither"),
        ('name: "m" base_path: "/a" model_type: TENSORFLOW model_platform: "tensorflow"', "Illegal setting both"),
        ('name: "m" base_path: "/a" model_platform: "torch"', "unsupported platform torch"),
    ],
)
def test_illegal_models(config, match):
    proto = text_format.Parse(f"config {{ {config} }}", model_server_config_pb2.ModelConfigList())
    with pytest.raises(ServingError, match=match):
        from_proto(proto)


@pytest.mark.parametrize("field", ["poll_seconds", "retries", "retry_seconds"])
def test_options_name_the_limit(field):
    with pytest.raises(ValueError, match=f"{field} must be at least 0, got -1"):
        LoadOptions(**{field: -1})
