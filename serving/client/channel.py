"""The client's way to a gateway: whom it trusts, who it says it is, and what it tries again."""

import dataclasses
import json
import pathlib
from typing import Any

import grpc

from serving.security.tls import channel_credentials

_SERVICE = "lookalike.retrieval.v1.RetrievalService"
# The one layer that tries again, and only what gRPC says was not answered because nobody was there: a gateway that is
# being replaced. Nothing is tried again when too many calls fail: a service in trouble has to do without that.
_RETRIES = {
    "methodConfig": [
        {
            "name": [{"service": _SERVICE}],
            "retryPolicy": {
                "maxAttempts": 3,
                "initialBackoff": "0.1s",
                "maxBackoff": "1s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
    "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1},
}
# Where an address stands for several gateways: each in turn, but none that says NOT_SERVING.
_SPREAD = {"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": _SERVICE}}
_OPTIONS = (
    # A thousand neighbours with their attributes are more than gRPC's default of 4 MiB.
    ("grpc.max_receive_message_length", 64 * 2**20),
    # A gateway that is back must be found again in seconds; gRPC's own backoff grows to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 2000),
    # Of a name that stands for several gateways, which come and go with every rollout; gRPC's own are 30 seconds.
    ("grpc.dns_min_time_between_resolutions_ms", 5000),
    # A connection that is dead without saying so must not be waited for; less often than the gateway forbids.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
)


@dataclasses.dataclass(frozen=True)
class Credentials:
    """What a client needs where the gateway doesn't let everybody in: files, PEM but for the token.

    ca: of the authority of the gateway's certificate; makes the connection TLS. cert, key: our own, for mTLS.
    token_file: holds a token, alone or after a name; read again for each call.
    """

    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    token_file: str | None = None

    def __post_init__(self) -> None:
        if (self.cert is None) != (self.key is None):
            raise ValueError("cert and key must be given together.")
        if self.cert is not None and self.ca is None:
            raise ValueError("cert needs ca: only TLS carries certificates.")

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Returns what goes with each call. Raises OSError, ValueError."""
        if self.token_file is None:
            return ()
        words = pathlib.Path(self.token_file).read_text().split()
        if not 1 <= len(words) <= 2:
            raise ValueError(f"{self.token_file} must hold one token, alone or after a name.")
        return (("authorization", f"Bearer {words[-1]}"),)


def open_channel(address: str, credentials: Credentials) -> Any:
    """Returns a channel to HOST:PORT, or to several gateways: dns:///NAME:PORT, or ipv4:HOST:PORT,HOST:PORT.

    Raises OSError and ValueError for files that can't be used.
    """
    several = "," in address or address.startswith("dns:")
    config = {**_RETRIES, **_SPREAD} if several else _RETRIES
    options = (*_OPTIONS, ("grpc.service_config", json.dumps(config)))
    if credentials.ca is None:
        return grpc.insecure_channel(address, options=options)
    trusted = channel_credentials(credentials.ca, credentials.cert, credentials.key)
    return grpc.secure_channel(address, trusted, options=options)
