"""Errors as gRPC statuses with `google.rpc` details: one table, and the layer that aborts by it."""

import logging
from collections.abc import Callable
from typing import Any

import grpc
from google.protobuf import duration_pb2, message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from serving.search import errors

DOMAIN = "lookalike"
_NOT_SOON = (errors.EncoderUnavailable, errors.StoreUnavailable, errors.LeafUnavailable, errors.CoverageTooLow)
# Details travel in trailers, which peers cap at 8 KiB.
_LONGEST_MESSAGE = 1024
_LONGEST_NAME = 256
_log = logging.getLogger(__name__)


def _bad_request(error: Any) -> list[message.Message]:
    violation = error_details_pb2.BadRequest.FieldViolation(
        field=error.field, description=str(error)[:_LONGEST_MESSAGE]
    )
    return [error_details_pb2.BadRequest(field_violations=[violation])]


def _bad_images(error: Any) -> list[message.Message]:
    violation = error_details_pb2.BadRequest.FieldViolation(field="image", description=str(error)[:_LONGEST_MESSAGE])
    return [error_details_pb2.BadRequest(field_violations=[violation])]


def _item(error: Any) -> list[message.Message]:
    return [error_details_pb2.ResourceInfo(resource_type="item", resource_name=error.item_id[:_LONGEST_NAME])]


def _release(error: Any) -> list[message.Message]:
    return [error_details_pb2.ResourceInfo(resource_type="release", resource_name=error.release_id[:_LONGEST_NAME])]


def _not_held(error: Any) -> list[message.Message]:
    violation = error_details_pb2.PreconditionFailure.Violation(
        type="RELEASE_HELD", subject=error.release_id[:_LONGEST_NAME], description=str(error)
    )
    return [error_details_pb2.PreconditionFailure(violations=[violation])]


def _retry(seconds: int) -> Callable[[Any], list[message.Message]]:
    delay = duration_pb2.Duration(seconds=seconds)
    return lambda error: [error_details_pb2.RetryInfo(retry_delay=delay)]


def _nothing(error: Any) -> list[message.Message]:
    return []


# Error -> code, reason (of ErrorInfo), further details.
STATUSES: dict[type[errors.RetrievalError], tuple[int, str, Callable[[Any], list[message.Message]]]] = {
    errors.InvalidQuery: (code_pb2.INVALID_ARGUMENT, "INVALID_QUERY", _bad_request),
    errors.ImagesRejected: (code_pb2.INVALID_ARGUMENT, "IMAGE_REJECTED", _bad_images),
    errors.ItemNotFound: (code_pb2.NOT_FOUND, "ITEM_NOT_FOUND", _item),
    errors.NoRelease: (code_pb2.UNAVAILABLE, "NO_RELEASE", _retry(5)),
    errors.ReleaseNotHeld: (code_pb2.FAILED_PRECONDITION, "RELEASE_NOT_HELD", _not_held),
    errors.ReleaseNotFound: (code_pb2.NOT_FOUND, "RELEASE_NOT_FOUND", _release),
    errors.StoreUnavailable: (code_pb2.UNAVAILABLE, "STORE_UNAVAILABLE", _retry(5)),
    errors.LeafUnavailable: (code_pb2.UNAVAILABLE, "LEAF_UNAVAILABLE", _retry(1)),
    errors.CoverageTooLow: (code_pb2.UNAVAILABLE, "COVERAGE_TOO_LOW", _retry(1)),
    errors.WrongShare: (code_pb2.FAILED_PRECONDITION, "WRONG_SHARE", _nothing),
    errors.EncoderUnavailable: (code_pb2.UNAVAILABLE, "ENCODER_UNAVAILABLE", _retry(1)),
    errors.EncoderFault: (code_pb2.INTERNAL, "ENCODER_FAULT", _nothing),
    errors.Unauthenticated: (code_pb2.UNAUTHENTICATED, "UNAUTHENTICATED", _nothing),
    errors.PermissionDenied: (code_pb2.PERMISSION_DENIED, "PERMISSION_DENIED", _nothing),
    errors.Overloaded: (code_pb2.RESOURCE_EXHAUSTED, "OVERLOADED", _retry(1)),
    errors.UpdatesNotAllowed: (code_pb2.FAILED_PRECONDITION, "UPDATES_NOT_ALLOWED", _nothing),
    errors.UpdatesFull: (code_pb2.RESOURCE_EXHAUSTED, "UPDATES_FULL", _nothing),
    errors.ClockAhead: (code_pb2.FAILED_PRECONDITION, "CLOCK_AHEAD", _nothing),
    errors.DeadlineExceeded: (code_pb2.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED", _nothing),
}


def to_status(error: Exception) -> status_pb2.Status:
    """Returns the status that a client is told. Of an error that isn't ours it learns only that there was one."""
    if not isinstance(error, errors.RetrievalError):
        return _status(code_pb2.INTERNAL, "INTERNAL", "internal error; the gateway's log has it.", [])
    code, reason, details = STATUSES[type(error)]
    return _status(code, reason, str(error), details(error))


def _status(code: int, reason: str, text: str, details: list[message.Message]) -> status_pb2.Status:
    status = status_pb2.Status(code=code, message=text[:_LONGEST_MESSAGE])
    for detail in [error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN), *details]:
        status.details.add().Pack(detail)
    return status


class AbortingLayer:
    """Turns whatever a unary method of `service` raises into a status, and bytes that are no request into one, too."""

    def __init__(self, service: str) -> None:
        self._prefix = f"/{service}/"
        # By the handler that is wrapped: to wrap anew for every call would take a tenth of a short one.
        self._known: dict[str, tuple[Any, Any]] = {}

    def around(self, handler: Any, details: grpc.HandlerCallDetails) -> Any:
        """Returns the handler, wrapped."""
        method = details.method
        if handler is None or not method.startswith(self._prefix):
            return handler
        known = self._known.get(method)
        if known is None or known[0] is not handler:
            known = self._known[method] = handler, _wrapped(method, handler)
        return known[1]


def _wrapped(method: str, handler: Any) -> Any:
    # gRPC itself would answer UNKNOWN to bytes that don't parse, so they are parsed in here.
    return grpc.unary_unary_rpc_method_handler(
        _aborting(method, handler.unary_unary, handler.request_deserializer),
        request_deserializer=None,
        response_serializer=_serialized,
    )


def _serialized(answer: Any) -> bytes:
    # What is answered most is put together as bytes.
    data: bytes = answer if isinstance(answer, bytes) else answer.SerializeToString()
    return data


def _aborting(method: str, behavior: Any, parse: Callable[[bytes], Any]) -> Any:
    async def run(data: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        try:
            return await behavior(_parsed(parse, data), context)
        except Exception as error:
            status = to_status(error)
            if status.code == code_pb2.INTERNAL:
                _log.error("%s failed: %s", method, error, exc_info=error)
            await context.abort_with_status(_with_advice(rpc_status.to_status(status), error))

    return run


def _with_advice(status: Any, error: Exception) -> Any:
    if not isinstance(error, _NOT_SOON):
        return status
    # Clients that retry UNAVAILABLE by themselves would only fail later: other gateways have the same encoder, serving
    # root and leaves.
    return status._replace(trailing_metadata=(*status.trailing_metadata, ("grpc-retry-pushback-ms", "-1")))


def _parsed(parse: Callable[[bytes], Any], data: bytes) -> Any:
    try:
        return parse(data)
    except message.DecodeError:
        raise errors.InvalidQuery("request", "the request is not a message of this method.") from None
