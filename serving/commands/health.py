"""Asks a server how it is, by grpc.health.v1; for probes that can't do that themselves, such as Kubernetes' with TLS.

  lookalike health                                                        is the process alive?
  lookalike health --service lookalike.retrieval.v1.RetrievalService      does it serve a release?
  lookalike health --service lookalike.encoder                            can images be encoded?
  lookalike health --address localhost:50051 --ca ca.crt --cert tls.crt --key tls.key

Prints what it hears; exit status 0 for SERVING and 1 for anything else, also where nobody answers.
"""

import argparse
import sys

HELP = "ask a gateway (or a model server) whether it is serving"
DEFAULT_ADDRESS = "127.0.0.1:50051"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this command's flags."""
    parser.add_argument("--address", default=DEFAULT_ADDRESS, metavar="HOST:PORT", help=f"[{DEFAULT_ADDRESS}]")
    parser.add_argument("--service", default="", help="name that is asked for; empty is the process itself")
    parser.add_argument("--timeout", type=float, default=3.0, help="seconds to wait for the answer [3]")
    parser.add_argument("--ca", metavar="PEM", help="authority of the server's certificate: asks over TLS")
    parser.add_argument("--cert", metavar="PEM", help="our own certificate, where the server asks for one")
    parser.add_argument("--key", metavar="PEM", help="its key")


def run(arguments: argparse.Namespace) -> int:
    """Asks and prints; returns 0 for SERVING, 1 for anything else, 2 where a file can't be used."""
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    from serving.client.channel import Credentials, open_channel

    try:
        credentials = Credentials(arguments.ca, arguments.cert, arguments.key)
        channel = open_channel(arguments.address, credentials)
    except (OSError, ValueError) as error:
        print(f"lookalike health: {error}", file=sys.stderr)
        return 2
    kind = health_pb2.HealthCheckResponse
    with channel:
        try:
            request = health_pb2.HealthCheckRequest(service=arguments.service)
            status = health_pb2_grpc.HealthStub(channel).Check(request, timeout=arguments.timeout).status
        except grpc.RpcError as error:
            print(f"lookalike health: {error.details() or error.code().name} [{error.code().name}]", file=sys.stderr)
            return 1
    print(kind.ServingStatus.Name(status))
    return 0 if status == kind.SERVING else 1
