"""What the probes of the manifests ask."""

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

_SERVICE = "lookalike.retrieval.v1.RetrievalService"


def serves(address: str) -> bool:
    """Asks what the gateway's readiness probe asks."""
    return _health(address, _SERVICE)


def lives(address: str) -> bool:
    """Asks what TF Serving's liveness probe asks; it listens when its versions are loaded."""
    return _health(address, "")


def _health(address: str, service: str) -> bool:
    with grpc.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=3)
        except grpc.RpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
