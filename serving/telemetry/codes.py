"""gRPC's status codes as numbers, and as Prometheus has them."""

from typing import Any

# By number, spelled as Go spells them.
CODES = (
    *("OK", "Canceled", "Unknown", "InvalidArgument", "DeadlineExceeded", "NotFound", "AlreadyExists"),
    *("PermissionDenied", "ResourceExhausted", "FailedPrecondition", "Aborted", "OutOfRange", "Unimplemented"),
    *("Internal", "Unavailable", "DataLoss", "Unauthenticated"),
)
OK, CANCELED, UNKNOWN, DEADLINE_EXCEEDED = 0, 1, 2, 4


def code_of(error: BaseException, context: Any) -> int:
    """Returns the code of a request that ended in `error`, given gRPC's context of it."""
    # Aborted, as ours always are. gRPC gives the code back as it was given: a StatusCode, or its number.
    code = context.code()
    if code:
        return int(getattr(code, "value", (code,))[0])
    if isinstance(error, Exception):
        return UNKNOWN
    # The client has gone, or its deadline came first.
    left = context.time_remaining()
    return DEADLINE_EXCEEDED if left is not None and left <= 0 else CANCELED
