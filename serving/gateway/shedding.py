"""Refuses requests that are too many: as early as can be, so that refusing costs little of what answering needs."""

from collections.abc import Callable
from typing import Any

import grpc
from grpc_status import rpc_status

from serving.gateway.admission import Admission, Kind
from serving.gateway.interception import Behavior, WrappingLayer, refusing
from serving.gateway.status import to_status
from serving.search import errors


class SheddingLayer(WrappingLayer):
    """Admits requests of a service, or answers RESOURCE_EXHAUSTED with RetryInfo without having parsed them."""

    def __init__(self, service: str, admission: Admission, kind: Callable[[str, bytes], Kind]) -> None:
        """kind: of a request, by its method's name and its bytes."""
        super().__init__(service, self._admitting)
        self._admission = admission
        self._kind = kind
        self._refused = _status(errors.Overloaded("the gateway has more requests at work than it will take on."))
        self._late = _status(errors.DeadlineExceeded("the deadline passed before the request was looked at."))
        self._refusal = refusing(self._refuse_unread)

    def around(self, handler: Any, details: grpc.HandlerCallDetails) -> Any:
        """Returns the handler, wrapped, or one that refuses."""
        if self._admission.full and details.method.startswith(self._prefix):
            return self._refusal
        return super().around(handler, details)

    async def _refuse_unread(self, context: Any) -> None:
        self._admission.refused[None] += 1
        await context.abort_with_status(self._refused)

    def _admitting(self, name: str, behavior: Behavior) -> Behavior:
        admission = self._admission

        async def run(data: bytes, context: Any) -> Any:
            kind, size = self._kind(name, data), len(data)
            if not admission.enter(kind, size):
                return await context.abort_with_status(self._refused)
            try:
                left = context.time_remaining()
                if left is not None and left <= 0:
                    admission.late += 1
                    return await context.abort_with_status(self._late)
                return await behavior(data, context)
            finally:
                admission.leave(kind, size)

        return run


def kind_of(name: str, data: bytes) -> Kind:
    """Returns the kind of a request of RetrievalService, without parsing it.

    An image is the first field of the requests that may hold one, and everybody's protobuf writes fields in order. Who
    doesn't is counted as the other kind, and within the same limits.
    """
    # A leaf's Search holds no image but begins with the same byte: so it can't crowd out the look whether it is there.
    if name == "Search":
        return Kind.IMAGES if data[:1] == b"\x0a" else Kind.PLAIN
    return Kind.IMAGES if name in ("Encode", "BatchSearch", "Upsert", "BatchUpsert") else Kind.PLAIN


def _status(error: Exception) -> Any:
    return rpc_status.to_status(to_status(error))
