"""What the gateway can be told, in one place: each field is a flag and a key of the YAML file."""

import dataclasses
import ipaddress
import pathlib
from collections.abc import Mapping
from typing import Any

import yaml


class ConfigError(ValueError):
    """An option that doesn't exist, or a value that can't be."""


@dataclasses.dataclass(frozen=True)
class GatewayConfig:
    """The gateway's options. Validated; raises ConfigError with the option's name, the limit and the value.

    serving_root: a local folder, gs:// or s3://. encoder: HOST:PORT of TF Serving's gRPC.
    host, port: where to listen; port 0 picks a free one. port_file: written once it listens.
    insecure: listen beyond loopback although nothing is encrypted or authenticated.
    cache: where releases of an object store are copied to and verified.
    poll_seconds: how often CURRENT and the encoder are looked at.
    keep_releases, keep_seconds: how many releases stay in memory after another took over, and for how long, to answer
      queries that pin them, and for a rollback at once. Each takes as much memory as the served one.
    cached_items: items of each held release that are kept ready for answers, some hundred bytes each.
    request_seconds: the longest a request may take, whatever deadline the client gives.
    workers: threads for decoding and searching. queue: requests that may wait for one.
    drain_seconds: between NOT_SERVING and refusing connections, for load balancers to notice.
    grace_seconds: that running requests get to finish after that.
    reflection: let tools list the API.
    """

    serving_root: str
    encoder: str = "127.0.0.1:8500"
    host: str = "127.0.0.1"
    port: int = 50051
    port_file: str | None = None
    insecure: bool = False
    cache: str | None = None
    poll_seconds: float = 1.0
    keep_releases: int = 1
    keep_seconds: float = 600.0
    cached_items: int = 20_000
    request_seconds: float = 30.0
    workers: int = 2
    queue: int = 64
    drain_seconds: float = 0.0
    grace_seconds: float = 10.0
    reflection: bool = False

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _check_type(field, getattr(self, field.name))
        if not self.serving_root:
            raise ConfigError("serving_root must be given: the folder or bucket that holds CURRENT.")
        _check_range("port", self.port, 0, 65535)
        _check_range("workers", self.workers, 1, 256)
        _check_range("queue", self.queue, 0, 100_000)
        _check_range("keep_releases", self.keep_releases, 0, 16)
        _check_range("keep_seconds", self.keep_seconds, 0, 30 * 86400)
        _check_range("cached_items", self.cached_items, 0, 100_000_000)
        _check_range("poll_seconds", self.poll_seconds, 0.01, 3600)
        _check_range("request_seconds", self.request_seconds, 0.01, 3600)
        _check_range("drain_seconds", self.drain_seconds, 0, 3600)
        _check_range("grace_seconds", self.grace_seconds, 0, 3600)
        if not self.insecure and not _is_loopback(self.host):
            raise ConfigError(
                f"host {self.host} is not loopback, and the gateway neither encrypts nor asks who is there: "
                "listen on 127.0.0.1, or say insecure where the network itself keeps others out."
            )

    @classmethod
    def load(cls, file: pathlib.Path | None, flags: Mapping[str, Any]) -> "GatewayConfig":
        """Returns the options in a YAML file, if any, overridden by `flags`; raises ConfigError."""
        values = {**({} if file is None else _read(file)), **flags}
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ConfigError(f"unknown option {', '.join(unknown)}; known are {', '.join(sorted(known))}.")
        return cls(**{"serving_root": "", **values})


def _read(file: pathlib.Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(file.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"can't read {file}: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{file} must hold options as `name: value`.")
    return {str(name): value for name, value in values.items()}


def _check_type(field: Any, value: Any) -> None:
    # YAML reads 1 as an int, which is a fine float; and a bool is an int in Python, but not a fine one.
    wanted: dict[Any, tuple[type, ...]] = {float: (float, int), str | None: (str, type(None))}
    types = wanted.get(field.type, (field.type,))
    if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
        raise ConfigError(f"{field.name} must be {getattr(field.type, '__name__', field.type)}, got {value!r}.")


def _check_range(name: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        raise ConfigError(f"{name} must be in [{least}, {most}], got {value}.")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
