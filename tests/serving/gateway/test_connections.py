from serving.gateway.connections import server_options
from serving.gateway.options import Connections, Limits


def test_every_option_has_its_argument() -> None:
    connections = Connections(max_age=0, age_grace=1.5, max_idle=0, keepalive=7, keepalive_timeout=2, min_ping=0)
    options = dict(server_options(Limits(request_bytes=5000, backlog=3), connections, share_port=True))
    never = 2**31 - 1
    assert options == {
        "grpc.max_receive_message_length": 5000,
        "grpc.max_metadata_size": 8192,
        "grpc.absolute_max_metadata_size": 16384,
        "grpc.server.max_pending_requests": 3,
        "grpc.server.max_pending_requests_hard_limit": 6,
        "grpc.max_concurrent_streams": 1000,
        "grpc.max_connection_age_ms": never,
        "grpc.max_connection_age_grace_ms": 1500,
        "grpc.max_connection_idle_ms": never,
        "grpc.keepalive_time_ms": 7000,
        "grpc.keepalive_timeout_ms": 2000,
        "grpc.http2.min_recv_ping_interval_without_data_ms": 0,
        "grpc.http2.max_ping_strikes": 2,
        "grpc.keepalive_permit_without_calls": 1,
        "grpc.so_reuseport": 1,
    }
