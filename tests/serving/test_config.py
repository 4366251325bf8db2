import pathlib

import pytest

from serving.config import ConfigError, GatewayConfig


def test_flags_override_the_file(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text("serving_root: gs://bucket/root\nport: 1234\npoll_seconds: 2\n")
    config = GatewayConfig.load(file, {"port": 0})
    assert (config.serving_root, config.port, config.poll_seconds) == ("gs://bucket/root", 0, 2)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "serving_root must be given"),
        ({"serving_root": "r", "port": 65536}, r"port must be in \[0, 65535\], got 65536"),
        ({"serving_root": "r", "port": "80"}, "port must be int, got '80'"),
        ({"serving_root": "r", "port": True}, "port must be int, got True"),
        ({"serving_root": "r", "workers": 0}, r"workers must be in \[1, 256\], got 0"),
        ({"serving_root": "r", "poll_seconds": float("nan")}, "poll_seconds must be in"),
        ({"serving_root": "r", "prot": 1}, "unknown option prot; known are cache"),
        ({"serving_root": "r", "host": "0.0.0.0"}, "host 0.0.0.0 is not loopback"),
        ({"serving_root": "r", "host": "::"}, "host :: is not loopback"),
        ({"serving_root": "r", "host": "gateway.example"}, "is not loopback"),
    ],
)
def test_a_wrong_option_is_named(values: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        GatewayConfig.load(None, values)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_loopback_needs_no_permission(host: str) -> None:
    assert GatewayConfig(serving_root="r", host=host).host == host


def test_beyond_loopback_when_told() -> None:
    assert GatewayConfig(serving_root="r", host="0.0.0.0", insecure=True).insecure


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: [", ""])
def test_a_file_that_holds_no_options(tmp_path: pathlib.Path, text: str) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"gateway\.yaml"):
        GatewayConfig.load(file, {})


def test_a_file_that_is_not_there(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ConfigError, match="can't read"):
        GatewayConfig.load(tmp_path / "none.yaml", {})


def test_the_example_holds_every_option_at_its_default() -> None:
    file = pathlib.Path(__file__).parent.parent.parent / "configs" / "gateway.yaml"
    config = GatewayConfig.load(file, {})
    assert config == GatewayConfig(serving_root=config.serving_root)
    assert all(f"{name}:" in file.read_text() for name in GatewayConfig.__dataclass_fields__)
