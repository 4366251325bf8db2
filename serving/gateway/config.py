"""What the gateway can be told, in one place: each field is a flag and a key of the YAML file."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import yaml

from serving.gateway.checks import ConfigError, check_range, check_types, is_loopback
from serving.gateway.options import Connections, Decoding, Encoding, FanOut, Limits, Logs, Monitoring, Security, Updates

__all__ = ["ConfigError", "GatewayConfig"]


@dataclasses.dataclass(frozen=True)
class GatewayConfig:
    """The gateway's options. Validated; raises ConfigError with the option's name, the limit and the value.

    serving_root: a local folder, gs:// or s3://. encoder: HOST:PORT of TF Serving's gRPC.
    host, port: where to listen; port 0 picks a free one. port_file: written once it listens.
    processes: that listen on that port together, each with threads, queues and limits of its own.
    insecure: listen beyond loopback although nothing is encrypted or nobody is asked who they are.
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
    limits, connections, encoding, decoding, updates, fan_out, security, logs, monitoring: see there.
    """

    serving_root: str
    encoder: str = "127.0.0.1:8500"
    host: str = "127.0.0.1"
    port: int = 50051
    port_file: str | None = None
    processes: int = 1
    insecure: bool = False
    cache: str | None = None
    poll_seconds: float = 1.0
    keep_releases: int = 1
    keep_seconds: float = 600.0
    cached_items: int = 100_000
    request_seconds: float = 30.0
    workers: int = 2
    queue: int = 256
    drain_seconds: float = 0.0
    grace_seconds: float = 10.0
    reflection: bool = False
    limits: Limits = dataclasses.field(default_factory=Limits)
    connections: Connections = dataclasses.field(default_factory=Connections)
    encoding: Encoding = dataclasses.field(default_factory=Encoding)
    decoding: Decoding = dataclasses.field(default_factory=Decoding)
    updates: Updates = dataclasses.field(default_factory=Updates)
    fan_out: FanOut = dataclasses.field(default_factory=FanOut)
    security: Security = dataclasses.field(default_factory=Security)
    logs: Logs = dataclasses.field(default_factory=Logs)
    monitoring: Monitoring = dataclasses.field(default_factory=Monitoring)

    def __post_init__(self) -> None:
        check_types(self)
        if not self.serving_root:
            raise ConfigError("serving_root must be given: the folder or bucket that holds CURRENT.")
        check_range("port", self.port, 0, 65535)
        check_range("processes", self.processes, 1, 64)
        # Each process has a port of its own for its metrics.
        check_range("monitoring.metrics_port", self.monitoring.metrics_port or 0, 0, 65536 - self.processes)
        check_range("workers", self.workers, 1, 256)
        check_range("queue", self.queue, 0, 100_000)
        check_range("keep_releases", self.keep_releases, 0, 16)
        check_range("keep_seconds", self.keep_seconds, 0, 30 * 86400)
        check_range("cached_items", self.cached_items, 0, 100_000_000)
        check_range("poll_seconds", self.poll_seconds, 0.01, 3600)
        check_range("request_seconds", self.request_seconds, 0.01, 3600)
        check_range("drain_seconds", self.drain_seconds, 0, 3600)
        check_range("grace_seconds", self.grace_seconds, 0, 3600)
        if self.fan_out.is_leaf and not self.keep_releases:
            raise ConfigError("keep_releases must be at least 1 for a leaf: roots change over when every leaf has.")
        missing = self.security.missing()
        if missing and not self.insecure and not is_loopback(self.host):
            raise ConfigError(
                f"host {self.host} is not loopback, and there is no {' and no '.join(missing)}: "
                "give that, listen on 127.0.0.1, or say insecure where the network itself keeps others out."
            )

    @property
    def takes_updates(self) -> bool:
        """Whether upserts and deletes are taken."""
        return self.updates.allow_updates or self.security.admin_tokens is not None

    @classmethod
    def load(cls, file: pathlib.Path | None, flags: Mapping[str, Any]) -> "GatewayConfig":
        """Returns the options in a YAML file, if any, overridden by `flags`; raises ConfigError.

        In the file the fields of a section stand below its name; flags have no sections.
        """
        values: dict[str, Any] = {} if file is None else _read(file)
        _check_known(values, [field.name for field in dataclasses.fields(cls)], "")
        given = dict(flags)
        sections = {}
        for name, section in SECTIONS.items():
            known = [field.name for field in dataclasses.fields(section)]
            block = values.pop(name, None) or {}
            if not isinstance(block, dict):
                raise ConfigError(f"{name} must hold options as `name: value`, got {block!r}.")
            _check_known(block, known, f"{name}.")
            sections[name] = section(**{**block, **{flag: given.pop(flag) for flag in known if flag in given}})
        _check_known(given, [field.name for field in dataclasses.fields(cls)], "")
        return cls(**{"serving_root": "", **values, **given, **sections})


SECTIONS: dict[str, Any] = {
    "limits": Limits,
    "connections": Connections,
    "encoding": Encoding,
    "decoding": Decoding,
    "updates": Updates,
    "fan_out": FanOut,
    "security": Security,
    "logs": Logs,
    "monitoring": Monitoring,
}


def _check_known(values: Mapping[str, Any], known: list[str], prefix: str) -> None:
    unknown = [prefix + name for name in sorted(set(values) - set(known))]
    if unknown:
        raise ConfigError(f"unknown option {', '.join(unknown)}; known are {', '.join(sorted(known))}.")


def _read(file: pathlib.Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(file.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"can't read {file}: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{file} must hold options as `name: value`.")
    return {str(name): value for name, value in values.items()}
