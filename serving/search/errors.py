"""What can go wrong with a query: one tree, one level deep. See serving/gateway/status.py for what a client is told.

* RetrievalError
  x InvalidQuery
  x ImagesRejected
  x ItemNotFound
  x NoRelease
  x ReleaseNotHeld
  x ReleaseNotFound
  x StoreUnavailable
  x LeafUnavailable
  x CoverageTooLow
  x WrongShare
  x EncoderUnavailable
  x EncoderFault
  x Overloaded
  x Unauthenticated
  x PermissionDenied
  x DeadlineExceeded
  x UpdatesNotAllowed
  x UpdatesFull
  x ClockAhead
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt


class RetrievalError(Exception):
    """Base of everything that a query may fail with and a client may be told. `str()` is the message."""


class InvalidQuery(RetrievalError):
    """The query itself is wrong; asking again changes nothing. field: its name in the request."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class ImagesRejected(RetrievalError):
    """The encoder can't read some images of a batch; asking again changes nothing. The others are encoded.

    reasons: by position in the batch. embeddings: float32 `[N, D]`, rows of rejected images are zero; `[N, 0]` where
    all are rejected.
    """

    def __init__(self, reasons: Mapping[int, str], embeddings: npt.NDArray[np.float32]) -> None:
        super().__init__("; ".join(f"image {i}: {reason}" for i, reason in sorted(reasons.items())))
        self.reasons = dict(reasons)
        self.embeddings = embeddings


class ItemNotFound(RetrievalError):
    """The release has no such item; another release may."""

    def __init__(self, item_id: str, release_id: str) -> None:
        super().__init__(f"release {release_id} has no item {item_id[:256]!r}.")
        self.item_id = item_id


class NoRelease(RetrievalError):
    """Nothing is served yet: the first release is missing, being loaded, or refused. Asking later may help."""


class ReleaseNotHeld(RetrievalError):
    """The release that the request pins can't answer here (any more, or yet); another one is served."""

    def __init__(self, release_id: str, served: str) -> None:
        super().__init__(f"release {release_id[:256]!r} is not held; {served} is served.")
        self.release_id = release_id


class ReleaseNotFound(RetrievalError):
    """Neither the gateway nor its serving root has such a release."""

    def __init__(self, release_id: str) -> None:
        super().__init__(f"there is no release {release_id[:256]!r}.")
        self.release_id = release_id


class StoreUnavailable(RetrievalError):
    """The serving root can't be read or written now. Only updates and listing releases need it; retry later."""


class LeafUnavailable(RetrievalError):
    """A part of the index, held by another process, can't be reached, and only that part could answer. Retry later."""


class CoverageTooLow(RetrievalError):
    """So much of the index can't be reached that the rest is no answer. Retry later."""


class WrongShare(RetrievalError):
    """A leaf was asked for shards that aren't its own: whoever wired leaves and root has to look."""


class EncoderUnavailable(RetrievalError):
    """The encoder can't be reached, or doesn't hold the release's version (yet). Only images need it; retry later."""


class EncoderFault(RetrievalError):
    """The encoder answered, but with what must not be used: another version, a wrong shape, an internal error.

    Never answered from, and a retry is not expected to help: somebody has to look.
    """


class Overloaded(RetrievalError):
    """More work is waiting than will be done in time. Refused before anything was done; retry after a pause."""


class Unauthenticated(RetrievalError):
    """Who asks didn't say who they are, or isn't known."""


class PermissionDenied(RetrievalError):
    """Who asks is known, and may not do that."""


class DeadlineExceeded(RetrievalError):
    """The time that the client gave (or the server's own cap) has passed. What had not begun was not started.

    begun: whether work was under way when it passed; else it waited, or came too late for its next step.
    """

    def __init__(self, message: str, *, begun: bool = True) -> None:
        super().__init__(message)
        self.begun = begun


class UpdatesNotAllowed(RetrievalError):
    """This gateway was not told to take upserts and deletes."""


class UpdatesFull(RetrievalError):
    """So many items were upserted since the release was made that no more are taken: it is time for a reindex."""


class ClockAhead(RetrievalError):
    """The item was changed by a machine whose clock is far ahead: until then no change of it would count."""
