import grpc
import pytest
import tensorflow as tf

from serving.model_server.errors import ServingError, from_exception, truncated


def test_short_messages_stay():
    assert truncated("ü" * 512) == "ü" * 512


def test_long_messages_are_cut_at_1024_bytes_and_never_within_a_character():
    assert truncated("x" * 1025) == "x" * 1024 + "...TRUNCATED"
    assert truncated("x" + "ü" * 600) == "x" + "ü" * 511 + "...TRUNCATED"


ERRORS = [e for e in vars(tf.errors).values() if isinstance(e, type) and issubclass(e, tf.errors.OpError)]
ERRORS.remove(tf.errors.OpError)


@pytest.mark.parametrize("kind", ERRORS)
def test_every_tensorflow_error_keeps_its_code(kind):
    raised = kind(None, None, "text")
    error = from_exception(raised)
    assert error.code.value[0] == raised.error_code
    assert error.message == "text"


def test_messages_are_those_of_tensorflows_runtime():
    error = tf.errors.InvalidArgumentError(None, None, "Graph execution error:\n\nUnknown image file format.")
    assert from_exception(error).message == "Unknown image file format."


def test_other_errors():
    known = ServingError(grpc.StatusCode.ABORTED, "x")
    assert from_exception(known) is known
    assert from_exception(KeyError("x")).code == grpc.StatusCode.INTERNAL
