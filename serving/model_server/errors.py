"""What the server answers when it can't: a gRPC status with TF Serving's own words."""

import grpc
import tensorflow as tf

# TF Serving cuts what it sends as a status message, so that it fits the HTTP/2 trailers.
MESSAGE_LIMIT = 1024
_TRUNCATED = "...TRUNCATED"
# What TensorFlow's Python puts before the message that its C++, and so TF Serving, has.
_PYTHON_PREFIX = "Graph execution error:\n\n"
_CODES = {code.value[0]: code for code in grpc.StatusCode}


class ServingError(Exception):
    """A request (or a load) that failed. code: what the client sees; message: TF Serving's text where it has one."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def invalid_argument(message: str) -> ServingError:
    """Returns the error for a request that can never succeed as it is."""
    return ServingError(grpc.StatusCode.INVALID_ARGUMENT, message)


def not_found(message: str) -> ServingError:
    """Returns the error for a model or version that isn't there (yet)."""
    return ServingError(grpc.StatusCode.NOT_FOUND, message)


def failed_precondition(message: str) -> ServingError:
    """Returns the error for a request that the server's present state rules out."""
    return ServingError(grpc.StatusCode.FAILED_PRECONDITION, message)


def from_exception(error: Exception) -> ServingError:
    """Returns `error` as a status: TensorFlow's errors keep their code, everything else is INTERNAL."""
    if isinstance(error, ServingError):
        return error
    if isinstance(error, tf.errors.OpError):
        code = _CODES.get(error.error_code, grpc.StatusCode.UNKNOWN)
        return ServingError(code, error.message.removeprefix(_PYTHON_PREFIX))
    return ServingError(grpc.StatusCode.INTERNAL, f"{type(error).__name__}: {error}")


def truncated(message: str) -> str:
    """Returns `message`, cut after 1024 bytes of UTF-8 (never within a character) and marked as cut."""
    encoded = message.encode()
    if len(encoded) <= MESSAGE_LIMIT:
        return message
    return encoded[:MESSAGE_LIMIT].decode(errors="ignore") + _TRUNCATED
