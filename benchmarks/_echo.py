"""What a gateway could be at best: it parses the same requests and sends answers of the same size, and thinks nothing.

A process of the serving environment: grpc.aio with the gateway's own options. It answers Search with the items of an
answer that the gateway gave before, copied into a new message; `--ready` sends that answer's bytes instead, as nobody
can who has to find them first. `--hop` first asks another echo to Predict, as the gateway asks the encoder.
"""

import argparse
import asyncio
import pathlib
import signal
import subprocess
import sys
from typing import Any

import grpc

from lookalike.retrieval.v1 import retrieval_pb2
from lookalike.tfserving.v1 import tfserving_pb2
from serving.encoders import tensors
from serving.gateway.connections import server_options
from serving.gateway.options import Connections, Limits

_PREDICT = "/tensorflow.serving.PredictionService/Predict"


class Echo:
    """The handlers."""

    def __init__(self, answer: Any, hop: str) -> None:
        self._answer = answer
        self._neighbors = [(neighbor.item, neighbor.score) for neighbor in answer.neighbors]
        self._embedding = tfserving_pb2.PredictResponse(model_spec=tfserving_pb2.ModelSpec(name="encoder"))
        self._embedding.outputs["embedding"].dtype = tensors.FLOAT
        self._embedding.outputs["embedding"].float_val.extend([0.125] * 64)
        self._predict = None
        if hop:
            self._predict = grpc.aio.insecure_channel(hop).unary_unary(
                _PREDICT,
                request_serializer=tfserving_pb2.PredictRequest.SerializeToString,
                response_deserializer=tfserving_pb2.PredictResponse.FromString,
            )

    async def search(self, request: Any, context: Any) -> Any:
        """Returns an answer of the size of the real one."""
        if self._predict is not None:
            inputs = {"image_bytes": tensors.from_strings([request.image])}
            await self._predict(tfserving_pb2.PredictRequest(inputs=inputs))
        response = retrieval_pb2.SearchResponse(
            release_id=self._answer.release_id,
            encoder_version=self._answer.encoder_version,
            timings=self._answer.timings,
            method=self._answer.method,
        )
        for item, score in self._neighbors:
            response.neighbors.add(item=item, score=score)
        return response

    async def ready(self, request: Any, context: Any) -> Any:
        """Returns the answer as it is."""
        return self._answer

    async def embed(self, request: Any, context: Any) -> Any:
        """Returns an embedding."""
        return self._embedding


async def serve(arguments: argparse.Namespace) -> None:
    """Serves until SIGTERM."""
    answer = retrieval_pb2.SearchResponse.FromString(arguments.answer.read_bytes())
    echo = Echo(answer, arguments.hop)
    options = server_options(Limits(), Connections(), share_port=arguments.processes > 1)
    server = grpc.aio.server(options=options)
    data = answer.SerializeToString()
    search = grpc.unary_unary_rpc_method_handler(
        echo.ready if arguments.ready else echo.search,
        retrieval_pb2.SearchRequest.FromString,
        (lambda _: data) if arguments.ready else retrieval_pb2.SearchResponse.SerializeToString,
    )
    predict = grpc.unary_unary_rpc_method_handler(
        echo.embed, tfserving_pb2.PredictRequest.FromString, tfserving_pb2.PredictResponse.SerializeToString
    )
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler("lookalike.retrieval.v1.RetrievalService", {"Search": search}),
            grpc.method_handlers_generic_handler("tensorflow.serving.PredictionService", {"Predict": predict}),
        )
    )
    port = server.add_insecure_port(f"127.0.0.1:{arguments.port}")
    await server.start()
    others = []
    if not arguments.other:
        others = [
            subprocess.Popen([*sys.orig_argv, "--port", str(port), "--other"]) for _ in range(1, arguments.processes)
        ]
        arguments.port_file.write_text(f"{port}\n")
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    for other in others:
        other.terminate()
        other.wait()
    await server.stop(1)


def main() -> None:
    """Reads the flags and serves."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--answer", type=pathlib.Path, required=True, help="a serialized SearchResponse")
    parser.add_argument("--hop", default="", help="address of another echo to ask first")
    parser.add_argument("--ready", action="store_true", help="send the answer's bytes")
    parser.add_argument("--processes", type=int, default=1, help="that share the port")
    parser.add_argument("--other", action="store_true", help="one of those, and not the first")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--port-file", type=pathlib.Path, required=True)
    asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
