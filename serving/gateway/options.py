"""The sections of the gateway's options: each is a block of the YAML file, and each field a flag of its own name."""

import dataclasses
from collections.abc import Sequence

from serving.gateway.checks import ConfigError, check_range, check_types, is_loopback
from serving.release.share import WHOLE, Share


@dataclasses.dataclass(frozen=True)
class Limits:
    """What the gateway takes on.

    in_flight: requests at work at once; more are refused with RESOURCE_EXHAUSTED. A quarter is kept for those with
      images, and a quarter for those without, so that neither can crowd out the other.
    in_flight_bytes: of all requests at work. request_bytes: of one. metadata_bytes: of one's headers.
    backlog: requests that have arrived and that the gateway hasn't looked at; about so many more are dropped by gRPC
      itself, which is all that is cheap enough when they come several times as fast as they can even be refused. It
      also bridges moments in which the gateway looks at nothing, such as when a release is loaded.
    """

    in_flight: int = 512
    in_flight_bytes: int = 256 * 2**20
    request_bytes: int = 20 * 2**20 + 2**16
    metadata_bytes: int = 8192
    backlog: int = 256

    def __post_init__(self) -> None:
        check_types(self, "limits.")
        check_range("limits.in_flight", self.in_flight, 4, 100_000)
        check_range("limits.request_bytes", self.request_bytes, 1024, 2**31 - 1)
        check_range("limits.in_flight_bytes", self.in_flight_bytes, self.request_bytes, 2**48)
        check_range("limits.metadata_bytes", self.metadata_bytes, 1024, 2**20)
        check_range("limits.backlog", self.backlog, 1, 2**20)


@dataclasses.dataclass(frozen=True)
class Connections:
    """How connections are kept, in seconds; 0 is for ever.

    max_streams: requests at once on one connection. max_age: after which a connection is closed in peace, so that
      clients look up the addresses again; age_grace: that its requests get to finish. max_idle: likewise when idle.
    keepalive: between pings to a silent client; keepalive_timeout: that it gets to answer. min_ping: clients that ping
      more often are disconnected.
    """

    max_streams: int = 1000
    max_age: float = 300.0
    age_grace: float = 60.0
    max_idle: float = 900.0
    keepalive: float = 60.0
    keepalive_timeout: float = 20.0
    min_ping: float = 10.0

    def __post_init__(self) -> None:
        check_types(self, "connections.")
        check_range("connections.max_streams", self.max_streams, 1, 1_000_000)
        for name in ("max_age", "age_grace", "max_idle", "keepalive", "keepalive_timeout", "min_ping"):
            check_range(f"connections.{name}", getattr(self, name), 0, 86400)


@dataclasses.dataclass(frozen=True)
class Encoding:
    """How the encoder is asked.

    batch_images: single images of requests that run at the same time are sent together, at most so many; 1 sends each
      by itself. batches: that are under way at once. batch_wait_seconds: that an image waits for company when none is.
    encode_seconds: the longest that the encoder may take. breaker_failures: in a row, after which image queries fail at
      once; breaker_seconds: until one is let through again.
    """

    batch_images: int = 64
    batches: int = 1
    batch_wait_seconds: float = 0.0
    encode_seconds: float = 10.0
    breaker_failures: int = 5
    breaker_seconds: float = 1.0

    def __post_init__(self) -> None:
        check_types(self, "encoding.")
        check_range("encoding.batch_images", self.batch_images, 1, 1024)
        check_range("encoding.batches", self.batches, 1, 64)
        check_range("encoding.batch_wait_seconds", self.batch_wait_seconds, 0, 0.1)
        check_range("encoding.encode_seconds", self.encode_seconds, 0.01, 3600)
        check_range("encoding.breaker_failures", self.breaker_failures, 1, 1_000_000)
        check_range("encoding.breaker_seconds", self.breaker_seconds, 0.01, 3600)


@dataclasses.dataclass(frozen=True)
class Decoding:
    """How much an image may cost.

    small_pixels: an image of more is decoded in a process of its own; every pass over it that its file asks for counts.
    decode_memory_bytes, decode_seconds: what that process may take; it is killed when it takes longer.
    """

    small_pixels: int = 4_000_000
    decode_memory_bytes: int = 512 * 2**20
    decode_seconds: float = 10.0

    def __post_init__(self) -> None:
        check_types(self, "decoding.")
        check_range("decoding.small_pixels", self.small_pixels, 0, 2**40)
        check_range("decoding.decode_memory_bytes", self.decode_memory_bytes, 64 * 2**20, 2**48)
        check_range("decoding.decode_seconds", self.decode_seconds, 0.1, 3600)


@dataclasses.dataclass(frozen=True)
class Updates:
    """Upserts and deletes between reindexes. What others have written is followed in any case.

    allow_updates: take them also where no security.admin_tokens are given: from everybody who is let in at all. With
      admin tokens they are taken from who has one.
    updates_in_flight: calls that are at work at once; more are refused, so that queries go on.
    journal_seconds: how often to look for what other processes have written.
    advise_items: upserted and hidden items from which on answers advise a reindex. max_items: upserted items that are
      searched beside the release at most, then upserts are refused; deletes never are.
    """

    allow_updates: bool = False
    updates_in_flight: int = 16
    journal_seconds: float = 0.5
    advise_items: int = 5000
    max_items: int = 20_000

    def __post_init__(self) -> None:
        check_types(self, "updates.")
        check_range("updates.updates_in_flight", self.updates_in_flight, 1, 10_000)
        check_range("updates.journal_seconds", self.journal_seconds, 0.01, 60)
        check_range("updates.advise_items", self.advise_items, 1, 1_000_000)
        check_range("updates.max_items", self.max_items, 1, 1_000_000)


@dataclasses.dataclass(frozen=True)
class FanOut:
    """An index in several processes: leaves with some shards each, and a root that holds none and asks them.

    shard_share: makes this gateway a leaf, for a root alone: it holds part I of N of the shards of every release and is
      given as I/N, such as 0/4 for the first of four.
    leaves: makes this gateway a root: HOST:PORT of each leaf, in the order of their shares; of a leaf with several
      replicas HOST:PORT,HOST:PORT.
    leaf_seconds: the longest that a leaf may take; what is not there then is left out. min_coverage: the share of the
      items that must have been searched for an answer, in (0, 1]. leaf_poll_seconds: how often leaves are looked at.
    leaf_failures: in a row, after which a leaf isn't asked for leaf_pause_seconds.
    hedge_percentile: of a leaf's recent seconds, in [0.5, 1], after which another replica is asked as well;
      hedge_share: for how many of the calls at most, in [0, 1].
    """

    shard_share: str | None = None
    leaves: list[str] = dataclasses.field(default_factory=list)
    leaf_seconds: float = 0.5
    min_coverage: float = 0.5
    leaf_poll_seconds: float = 0.5
    leaf_failures: int = 3
    leaf_pause_seconds: float = 1.0
    hedge_percentile: float = 0.95
    hedge_share: float = 0.05

    def __post_init__(self) -> None:
        check_types(self, "fan_out.")
        if self.shard_share is not None and self.leaves:
            raise ConfigError("fan_out.shard_share makes a leaf, fan_out.leaves a root: give one of them.")
        try:
            _ = self.share
        except ValueError as error:
            raise ConfigError(f"fan_out.shard_share: {error}") from error
        for leaf in self.leaves:
            if not isinstance(leaf, str) or not all(":" in address for address in leaf.split(",")):
                raise ConfigError(f"fan_out.leaves must be HOST:PORT or HOST:PORT,HOST:PORT each, got {leaf!r}.")
        check_range("fan_out.leaf_seconds", self.leaf_seconds, 0.001, 3600)
        check_range("fan_out.min_coverage", self.min_coverage, 1e-6, 1)
        check_range("fan_out.leaf_poll_seconds", self.leaf_poll_seconds, 0.01, 60)
        check_range("fan_out.leaf_failures", self.leaf_failures, 1, 1_000_000)
        check_range("fan_out.leaf_pause_seconds", self.leaf_pause_seconds, 0.01, 3600)
        check_range("fan_out.hedge_percentile", self.hedge_percentile, 0.5, 1)
        check_range("fan_out.hedge_share", self.hedge_share, 0, 1)

    @property
    def is_leaf(self) -> bool:
        """Whether this gateway answers a root, from some shards."""
        return self.shard_share is not None

    @property
    def is_root(self) -> bool:
        """Whether this gateway asks leaves."""
        return bool(self.leaves)

    @property
    def share(self) -> Share | None:
        """What this gateway loads of a release; None for nothing."""
        if self.is_root:
            return None
        return WHOLE if self.shard_share is None else Share.parse(self.shard_share)


@dataclasses.dataclass(frozen=True)
class Security:
    """Who is let in, by files in PEM and of tokens. All are read again when they change.

    tls_cert, tls_key: the gateway's certificate (its chain) and key. client_ca: clients must show a certificate of it.
    read_tokens, admin_tokens: files with the tokens of each role, one a line, after a name where it has one.
    encoder_ca: the encoder is asked over TLS and must show a certificate of it. encoder_cert, encoder_key: our own.
    leaf_ca, leaf_cert, leaf_key: likewise, where a root asks its leaves. leaf_token: a file with the token for them.
    """

    tls_cert: str | None = None
    tls_key: str | None = None
    client_ca: str | None = None
    read_tokens: str | None = None
    admin_tokens: str | None = None
    encoder_ca: str | None = None
    encoder_cert: str | None = None
    encoder_key: str | None = None
    leaf_ca: str | None = None
    leaf_cert: str | None = None
    leaf_key: str | None = None
    leaf_token: str | None = None

    def __post_init__(self) -> None:
        check_types(self, "security.")
        self._check_together("tls_cert", "tls_key")
        self._check_together("encoder_cert", "encoder_key")
        self._check_together("leaf_cert", "leaf_key")
        self._check_needs("client_ca", "tls_cert", "only TLS carries the certificates of clients")
        self._check_needs("encoder_cert", "encoder_ca", "it says that the encoder is asked over TLS")
        self._check_needs("leaf_cert", "leaf_ca", "it says that leaves are asked over TLS")

    @property
    def encrypts(self) -> bool:
        """Whether clients are served over TLS."""
        return self.tls_cert is not None

    @property
    def asks_who(self) -> bool:
        """Whether clients must say who they are: by a token or a certificate."""
        return any((self.read_tokens, self.admin_tokens, self.client_ca))

    def missing(self) -> Sequence[str]:
        """Returns what is missing to listen where everybody can connect."""
        return [
            *([] if self.encrypts else ["TLS (tls_cert and tls_key)"]),
            *([] if self.asks_who else ["way to tell who asks (read_tokens, admin_tokens or client_ca)"]),
        ]

    def _check_together(self, first: str, second: str) -> None:
        if (getattr(self, first) is None) != (getattr(self, second) is None):
            raise ConfigError(f"security.{first} and security.{second} must be given together.")

    def _check_needs(self, name: str, other: str, why: str) -> None:
        if getattr(self, name) is not None and getattr(self, other) is None:
            raise ConfigError(f"security.{name} needs security.{other}: {why}.")


@dataclasses.dataclass(frozen=True)
class Logs:
    """What is written down. Never an image, never a token.

    log_format: text, or json (one object a line). log_requests: the share of requests that are logged, in [0, 1];
    those that fail are logged in any case, as far as they come at a bearable rate. audit_file: what holders of admin
    tokens did, and who tried, one JSON object a line.
    """

    log_format: str = "text"
    log_requests: float = 0.0
    audit_file: str | None = None

    def __post_init__(self) -> None:
        check_types(self, "logs.")
        check_range("logs.log_requests", self.log_requests, 0, 1)
        if self.log_format not in ("text", "json"):
            raise ConfigError(f"logs.log_format must be text or json, got {self.log_format!r}.")


@dataclasses.dataclass(frozen=True)
class Monitoring:
    """How the gateway is seen from outside; docs/monitoring.md says by what.

    metrics_port: where Prometheus finds /metrics, over plain HTTP; None is nowhere, 0 a free one. Of several processes
      each has a port of its own, from this one on. metrics_host: where to listen for it; beyond loopback only with
      metrics_insecure, where the network itself keeps others out.
      metrics_port_file: written with the port; by processes after the first with their number behind a dot.
    reconstruct_images: the share of query images that the encoder is asked to reconstruct, in [0, 1], to see drift;
      none without a metrics_port.
    trace_endpoint: an OTLP collector (gRPC) that OpenTelemetry traces are sent to, such as http://127.0.0.1:4317.
    trace_requests: the share of requests that are traced, in [0, 1], where the caller's traceparent doesn't say.
    """

    metrics_port: int | None = None
    metrics_host: str = "127.0.0.1"
    metrics_insecure: bool = False
    metrics_port_file: str | None = None
    reconstruct_images: float = 0.01
    trace_endpoint: str | None = None
    trace_requests: float = 0.01

    def __post_init__(self) -> None:
        check_types(self, "monitoring.")
        if self.metrics_port is not None:
            check_range("monitoring.metrics_port", self.metrics_port, 0, 65535)
            if not self.metrics_insecure and not is_loopback(self.metrics_host):
                raise ConfigError(
                    f"monitoring.metrics_host {self.metrics_host} is not loopback, and whoever can connect is told: "
                    "listen on 127.0.0.1, or say metrics_insecure where the network itself keeps others out."
                )
        # By the scheme it is known whether to encrypt; without one, spans would get lost without a word.
        if self.trace_endpoint is not None and not self.trace_endpoint.startswith(("http://", "https://")):
            raise ConfigError(
                f"monitoring.trace_endpoint must begin with http:// or https://, got {self.trace_endpoint!r}."
            )
        check_range("monitoring.reconstruct_images", self.reconstruct_images, 0, 1)
        check_range("monitoring.trace_requests", self.trace_requests, 0, 1)
