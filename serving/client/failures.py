"""What went wrong with a query, as the client tells it."""

from typing import Any

from google.rpc import code_pb2, error_details_pb2, status_pb2

# What BoringSSL says to an answer in the clear.
_NOT_TLS = "WRONG_VERSION_NUMBER"


class QueryFailed(Exception):
    """The gateway said no, or could not be reached. `str()` is for people, the rest for programs.

    code: gRPC's, like `INVALID_ARGUMENT`. reason: finer and stable, like `ENCODER_UNAVAILABLE`; empty where the
    gateway didn't answer itself. field: of the request, where it was that. retry_seconds: when asking again may help.
    """

    def __init__(self, code: str, message: str, reason: str, field: str, retry_seconds: float | None) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.field = field
        self.retry_seconds = retry_seconds


def from_error(error: Any, address: str) -> QueryFailed:
    """Returns what a grpc.RpcError says. address: of the gateway, for people."""
    status = status_pb2.Status()
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            status.ParseFromString(value)
    if error.code().name == "CANCELLED" and not status.details:
        # Nobody here cancels. This is all that gRPC itself can say for a gateway that has no time even to refuse.
        text = f"the gateway at {address} has far more requests than it will take on."
        return QueryFailed("RESOURCE_EXHAUSTED", text, "OVERLOADED", "", 1.0)
    text = error.details() or error.code().name
    if not status.details:
        text = f"no answer from the gateway at {address}: {text}"
        if _NOT_TLS in text:
            text += "; what listens there does not speak TLS: ask without a ca, or start it with a certificate."
    return _failed(error.code().name, text, status.details)


def from_status(status: Any) -> QueryFailed:
    """Returns what the Status of a query in a batch says."""
    return _failed(code_pb2.Code.Name(status.code), status.message, status.details)


def _failed(code: str, text: str, details: Any) -> QueryFailed:
    info, bad, retry = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
    for detail in details:
        for message in (info, bad, retry):
            if detail.Is(message.DESCRIPTOR):
                detail.Unpack(message)
    field = bad.field_violations[0].field if bad.field_violations else ""
    wait = retry.retry_delay.ToTimedelta().total_seconds() if retry.HasField("retry_delay") else None
    return QueryFailed(code, text, info.reason, field, wait)
