import asyncio
import pathlib

import pytest

from serving.gateway.config import ConfigError, GatewayConfig
from serving.gateway.gateway import serve
from serving.release.share import WHOLE, Share


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
        ({"serving_root": "r", "host": "::", "tls_cert": "c", "tls_key": "k"}, "there is no way to tell who asks"),
        ({"serving_root": "r", "host": "::", "read_tokens": "t"}, r"there is no TLS \(tls_cert and tls_key\): give"),
        ({"serving_root": "r", "tls_cert": "c"}, r"security\.tls_cert and security\.tls_key must be given together"),
        ({"serving_root": "r", "client_ca": "c"}, r"security\.client_ca needs security\.tls_cert"),
        ({"serving_root": "r", "encoder_cert": "c", "encoder_key": "k"}, "needs security.encoder_ca"),
        ({"serving_root": "r", "in_flight": 1}, r"limits\.in_flight must be in \[4, 100000\], got 1"),
        ({"serving_root": "r", "batches": 0.5}, r"encoding\.batches must be int, got 0\.5"),
        ({"serving_root": "r", "trace_endpoint": "otel:4317"}, "must begin with http:// or https://, got 'otel:4317'"),
        ({"serving_root": "r", "metrics_port": 65536}, r"monitoring\.metrics_port must be in \[0, 65535\]"),
        (
            {"serving_root": "r", "metrics_port": 0, "metrics_host": "0.0.0.0"},
            r"metrics_host 0\.0\.0\.0 is not loopback",
        ),
        (
            {"serving_root": "r", "metrics_port": 1, "metrics_host": "::", "insecure": True},
            "say metrics_insecure where",
        ),
        ({"serving_root": "r", "log_format": "xml"}, "must be text or json, got 'xml'"),
        (
            {"serving_root": "r", "shard_share": "4/4"},
            r"fan_out\.shard_share: share must be I/N with I in \[0, N\), got 4/4",
        ),
        ({"serving_root": "r", "shard_share": "first"}, "such as 0/4 for the first of four, got 'first'"),
        ({"serving_root": "r", "shard_share": "0/4", "leaves": ["a:1"]}, "give one of them"),
        (
            {"serving_root": "r", "shard_share": "0/4", "keep_releases": 0},
            "keep_releases must be at least 1 for a leaf",
        ),
        ({"serving_root": "r", "leaves": ["a"]}, "must be HOST:PORT or HOST:PORT,HOST:PORT each, got 'a'"),
        ({"serving_root": "r", "leaves": "a:1"}, r"fan_out\.leaves must be list, got 'a:1'"),
        ({"serving_root": "r", "min_coverage": 0}, r"fan_out\.min_coverage must be in"),
        ({"serving_root": "r", "leaf_cert": "c", "leaf_key": "k"}, r"security\.leaf_cert needs security\.leaf_ca"),
    ],
)
def test_a_wrong_option_is_named(values: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        GatewayConfig.load(None, values)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_loopback_needs_no_permission(host: str) -> None:
    assert GatewayConfig(serving_root="r", host=host).host == host


def test_metrics_beyond_loopback_when_told() -> None:
    told = {"serving_root": "r", "metrics_port": 0, "metrics_host": "0.0.0.0", "metrics_insecure": True}
    assert GatewayConfig.load(None, told).monitoring.metrics_host == "0.0.0.0"
    # Where nothing listens there is nothing to refuse.
    assert GatewayConfig.load(None, {"serving_root": "r", "metrics_host": "0.0.0.0"}).monitoring.metrics_port is None


def test_beyond_loopback_when_told() -> None:
    assert GatewayConfig(serving_root="r", host="0.0.0.0", insecure=True).insecure


def test_a_leaf_loads_its_share_and_a_root_nothing() -> None:
    leaf = GatewayConfig.load(None, {"serving_root": "r", "shard_share": "1/4"}).fan_out
    root = GatewayConfig.load(None, {"serving_root": "r", "leaves": ["a:1,b:1", "c:1"]}).fan_out
    alone = GatewayConfig(serving_root="r").fan_out
    assert [options.share for options in (leaf, root, alone)] == [Share(1, 4), None, WHOLE]
    assert [(options.is_leaf, options.is_root) for options in (leaf, root, alone)] == [
        (True, False),
        (False, True),
        (False, False),
    ]


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: [", ""])
def test_a_file_that_holds_no_options(tmp_path: pathlib.Path, text: str) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"gateway\.yaml"):
        GatewayConfig.load(file, {})


def test_sections_are_blocks_of_the_file_and_flags_without_a_name(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text("serving_root: r\nlimits:\n  in_flight: 7\n  backlog: 9\nlogs:\n")
    limits = GatewayConfig.load(file, {"in_flight": 8}).limits
    assert (limits.in_flight, limits.backlog) == (8, 9)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("limits: 3\n", "limits must hold options"),
        ("limits:\n  prot: 1\n", r"unknown option limits\.prot; known are backlog"),
        ("in_flight: 3\n", "unknown option in_flight; known are cache"),
    ],
)
def test_a_wrong_section_is_named(tmp_path: pathlib.Path, text: str, message: str) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        GatewayConfig.load(file, {"serving_root": "r"})


@pytest.mark.parametrize("who", [{"read_tokens": "t"}, {"admin_tokens": "t"}, {"client_ca": "c"}])
def test_beyond_loopback_where_it_encrypts_and_asks_who_is_there(who: dict) -> None:
    config = GatewayConfig.load(None, {"serving_root": "r", "host": "0.0.0.0", "tls_cert": "c", "tls_key": "k", **who})
    assert config.host == "0.0.0.0"


def test_a_file_that_is_not_there(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ConfigError, match="can't read"):
        GatewayConfig.load(tmp_path / "none.yaml", {})


def test_the_example_holds_every_option_at_its_default() -> None:
    file = pathlib.Path(__file__).parents[3] / "configs" / "gateway.yaml"
    config = GatewayConfig.load(file, {})
    assert config == GatewayConfig(serving_root=config.serving_root)
    assert all(f"{name}:" in file.read_text() for name in GatewayConfig.__dataclass_fields__)


def test_a_serving_root_that_nothing_here_can_open_is_an_option_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match="serving_root: nothing://bucket"):
        asyncio.run(serve(GatewayConfig(serving_root="nothing://bucket", port=0)))
