"""gRPC's channel arguments: every limit that it would else choose itself, and not as a server on a network needs it."""

import math
from typing import Any

from serving.gateway.options import Connections, Limits

_NEVER = 2**31 - 1


def server_options(limits: Limits, connections: Connections, *, share_port: bool) -> list[tuple[str, Any]]:
    """Returns the options of a server. share_port: with other processes of this gateway."""
    return [
        # What is larger is refused before it is read.
        ("grpc.max_receive_message_length", limits.request_bytes),
        ("grpc.max_metadata_size", limits.metadata_bytes),
        ("grpc.absolute_max_metadata_size", 2 * limits.metadata_bytes),
        # Below `backlog` none, above twice that all, and in between ever more at random.
        ("grpc.server.max_pending_requests", limits.backlog),
        ("grpc.server.max_pending_requests_hard_limit", 2 * limits.backlog),
        ("grpc.max_concurrent_streams", connections.max_streams),
        ("grpc.max_connection_age_ms", _milliseconds(connections.max_age)),
        ("grpc.max_connection_age_grace_ms", _milliseconds(connections.age_grace)),
        ("grpc.max_connection_idle_ms", _milliseconds(connections.max_idle)),
        ("grpc.keepalive_time_ms", _milliseconds(connections.keepalive)),
        ("grpc.keepalive_timeout_ms", _milliseconds(connections.keepalive_timeout)),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", _milliseconds(connections.min_ping, never=0)),
        ("grpc.http2.max_ping_strikes", 2),
        # An idle client may find out that its connection is dead, too.
        ("grpc.keepalive_permit_without_calls", 1),
        # A second gateway on this port must fail, not take half of the connections unseen.
        ("grpc.so_reuseport", int(share_port)),
    ]


def _milliseconds(seconds: float, never: int = _NEVER) -> int:
    return math.ceil(1000 * seconds) if seconds else never
