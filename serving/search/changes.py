"""What a client may change: validated, without gRPC. The limits are those of ingest."""

import dataclasses
import math
from collections.abc import Mapping

from serving.journal.clock import Stamp
from serving.release.items import Attribute
from serving.search import errors

MAX_UPSERTS = 256
MAX_DELETES = 1000
MOST_ID = 1024  # characters
MOST_ATTRIBUTES = 64
MOST_NAME = 1024  # characters
MOST_TEXT = 4096  # characters


@dataclasses.dataclass(frozen=True)
class ItemUpsert:
    """An item to add or replace. image: a file's bytes. attributes: a boolean is kept as 0 or 1, as ingest does."""

    item_id: str
    image: bytes = dataclasses.field(repr=False)
    attributes: Mapping[str, Attribute] = dataclasses.field(default_factory=dict)
    uri: str = ""

    def __post_init__(self) -> None:
        _check_id(self.item_id)
        if not self.image:
            raise errors.InvalidQuery("image", "image must be set: an embedding alone could not follow a new encoder.")
        if len(self.uri) > MOST_TEXT or (self.uri and not self.uri.isprintable()):
            raise errors.InvalidQuery("uri", f"uri must be printable and have at most {MOST_TEXT} characters.")
        if len(self.attributes) > MOST_ATTRIBUTES:
            raise errors.InvalidQuery(
                "attributes", f"an item may have {MOST_ATTRIBUTES} attributes, got {len(self.attributes)}."
            )
        for name, value in self.attributes.items():
            _check_attribute(name, value)
        plain = {name: int(value) if isinstance(value, bool) else value for name, value in self.attributes.items()}
        object.__setattr__(self, "attributes", plain)


@dataclasses.dataclass(frozen=True)
class ItemDelete:
    """An item to take out. purge: its bytes are to be erased everywhere."""

    item_id: str
    purge: bool = False

    def __post_init__(self) -> None:
        _check_id(self.item_id)


@dataclasses.dataclass(frozen=True)
class Changed:
    """A change that is kept. stamp: its place among all changes. known: whether there was an item of that id.

    sha256: of the canonical image, in hex; of a delete empty. release_id: that is served. advised: whether it is time
    for a reindex.
    """

    stamp: Stamp
    known: bool
    release_id: str
    advised: bool
    sha256: str = ""


def check_count(count: int, most: int) -> None:
    """Raises InvalidQuery where a batch holds so many changes, or none."""
    if not 1 <= count <= most:
        raise errors.InvalidQuery("requests", f"a batch must hold 1 to {most} requests, got {count}.")


def _check_id(item_id: str) -> None:
    if not 1 <= len(item_id) <= MOST_ID:
        raise errors.InvalidQuery("item_id", f"item_id must have 1 to {MOST_ID} characters, got {len(item_id)}.")
    # No control characters either, such as NUL.
    if not item_id.isprintable():
        raise errors.InvalidQuery("item_id", f"item_id must be printable, got {item_id!r}.")


def _check_attribute(name: str, value: Attribute) -> None:
    if not 1 <= len(name) <= MOST_NAME or not name.isprintable():
        raise errors.InvalidQuery(
            "attributes",
            f"an attribute's name must be printable and have 1 to {MOST_NAME} characters, got {name[:80]!r}.",
        )
    if isinstance(value, str) and (len(value) > MOST_TEXT or "\0" in value):
        raise errors.InvalidQuery(
            "attributes",
            f"attribute {name[:80]!r} must have no NUL and at most {MOST_TEXT} characters, got {len(value)}.",
        )
    if isinstance(value, float) and not math.isfinite(value):
        raise errors.InvalidQuery("attributes", f"attribute {name[:80]!r} must be finite, got {value}.")
