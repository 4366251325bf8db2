import numpy as np
import pytest
from google.rpc import code_pb2, error_details_pb2, status_pb2

from serving.gateway.status import STATUSES, to_status
from serving.search import errors

EXAMPLES = [
    errors.InvalidQuery("k", "k must be in [1, 1000], got 0."),
    errors.ImagesRejected({0: "the encoder can't read it."}, np.zeros((1, 0), np.float32)),
    errors.ItemNotFound("a.png", "r1"),
    errors.NoRelease("no release is being served yet."),
    errors.ReleaseNotHeld("r1", "r2"),
    errors.ReleaseNotFound("r1"),
    errors.StoreUnavailable("the serving root can't be read now."),
    errors.LeafUnavailable("leaf 1/4 can't be reached."),
    errors.CoverageTooLow("only 0.250 of the items can be searched now."),
    errors.WrongShare("this leaf holds the share 0/4, and was asked as 1/4."),
    errors.EncoderUnavailable("the encoder can't be reached."),
    errors.EncoderFault("asked version 1, was answered by 2."),
    errors.Unauthenticated("the token is not known here."),
    errors.PermissionDenied("ListReleases needs the role admin."),
    errors.Overloaded("66 requests are waiting."),
    errors.DeadlineExceeded("the deadline has passed."),
    errors.UpdatesNotAllowed("this gateway takes no updates."),
    errors.UpdatesFull("20000 items were upserted since the release was made."),
    errors.ClockAhead("the clock of a writer is 90.0 s ahead of ours."),
]


def unpacked(status: status_pb2.Status, kind: type) -> object:
    for detail in status.details:
        message = kind()
        if detail.Unpack(message):
            return message
    raise AssertionError(f"no {kind.__name__} in {status}")


def test_every_error_has_a_status_and_an_example() -> None:
    assert set(STATUSES) == set(errors.RetrievalError.__subclasses__())
    assert {type(example) for example in EXAMPLES} == set(STATUSES)


def test_the_tree_is_one_level_deep() -> None:
    assert all(not leaf.__subclasses__() for leaf in errors.RetrievalError.__subclasses__())


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_a_status_names_its_reason_and_keeps_the_message(error: errors.RetrievalError) -> None:
    status = to_status(error)
    assert status.message == str(error)
    assert unpacked(status, error_details_pb2.ErrorInfo).reason.isupper()
    assert unpacked(status, error_details_pb2.ErrorInfo).domain == "lookalike"


def test_a_bad_request_names_the_field() -> None:
    status = to_status(errors.InvalidQuery("k", "k must be in [1, 1000], got 0."))
    assert status.code == code_pb2.INVALID_ARGUMENT
    assert unpacked(status, error_details_pb2.BadRequest).field_violations[0].field == "k"


def test_what_is_not_found_is_named() -> None:
    status = to_status(errors.ItemNotFound("a.png", "r1"))
    assert status.code == code_pb2.NOT_FOUND
    assert unpacked(status, error_details_pb2.ResourceInfo).resource_name == "a.png"


@pytest.mark.parametrize("error", [errors.NoRelease("x"), errors.EncoderUnavailable("x"), errors.Overloaded("x")])
def test_what_may_pass_says_when_to_ask_again(error: errors.RetrievalError) -> None:
    assert unpacked(to_status(error), error_details_pb2.RetryInfo).retry_delay.seconds >= 1


def test_what_is_not_ours_says_nothing_of_itself() -> None:
    status = to_status(KeyError("/secret/path"))
    assert status.code == code_pb2.INTERNAL
    assert b"secret" not in status.SerializeToString()


def test_details_fit_into_trailers() -> None:
    assert to_status(errors.ItemNotFound("x" * 100_000, "r1")).ByteSize() < 8192
    assert to_status(errors.InvalidQuery("query", "x" * 100_000)).ByteSize() < 8192
