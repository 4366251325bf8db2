"""Fuzzes the API, by atheris: `python -m benchmarks._fuzz_requests ROOT ENCODER CORPUS [libFuzzer's flags]`.

A process of the serving environment with a whole gateway in it, which serves ROOT and asks ENCODER. The first byte of
an input chooses the method, the rest is sent as the request. Whatever that is, the answer is one, or says what is
wrong with the request; never INTERNAL or UNKNOWN.
"""

import asyncio
import sys
import threading
from typing import Any

import atheris

with atheris.instrument_imports(include=["serving"]):
    from serving.gateway.config import GatewayConfig
    from serving.gateway.gateway import Gateway

import grpc

from serving.client import Client

METHODS = ("Search", "BatchSearch", "Encode", "GetItem", "BatchGetItems", "GetRelease", "ListReleases")
# A request may ask for what isn't there, or not be held; and it may be one that nothing is wrong with.
_FINE = ("OK", "INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION")


class Target:
    """A gateway in a thread, and a connection to it."""

    def __init__(self, root: str, encoder: str) -> None:
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        port = asyncio.run_coroutine_threadsafe(self._start(root, encoder), self._loop).result(60)
        address = f"127.0.0.1:{port}"
        with Client(address) as client:
            client.wait_until_serving(60)
        channel = grpc.insecure_channel(address)
        self._methods = [channel.unary_unary(f"/lookalike.retrieval.v1.RetrievalService/{name}") for name in METHODS]

    async def _start(self, root: str, encoder: str) -> int:
        # Kept: the server stops when it is forgotten.
        self._gateway = Gateway(GatewayConfig(serving_root=root, encoder=encoder, port=0))
        return await self._gateway.start()

    def try_request(self, data: bytes) -> None:
        """Raises where the answer is none of those that a client may be given."""
        code, said = self._ask(data)
        assert code in _FINE, f"{METHODS[data[0] % len(METHODS)] if data else ''}: {code}: {said}"

    def _ask(self, data: bytes) -> tuple[str, Any]:
        if not data:
            return "OK", None
        try:
            self._methods[data[0] % len(self._methods)](data[1:], timeout=10)
        except grpc.RpcError as error:
            return error.code().name, error.details()
        return "OK", None


if __name__ == "__main__":
    target = Target(*sys.argv[1:3])
    atheris.Setup([sys.argv[0], *sys.argv[3:]], target.try_request)
    atheris.Fuzz()
