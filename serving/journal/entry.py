"""A change of the collection, and when it was made."""

import dataclasses
import math
import re
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from serving.journal.clock import Stamp

Attribute = str | int | float | bool

_SHA256 = re.compile(r"[0-9a-f]{64}")
_INTEGERS = range(-(2**63), 2**63)


@dataclasses.dataclass(frozen=True)
class Upsert:
    """An item is put into the collection, or in the place of the one that has its id.

    image: canonical bytes. sha256: of these, in hex. width, height: pixels. embedding: float32 `[D]`, what the encoder
    of digest `encoder_digest` gave; None where none has seen it.
    """

    item_id: str
    image: bytes = dataclasses.field(repr=False)
    sha256: str
    width: int
    height: int
    uri: str = ""
    attributes: Mapping[str, Attribute] = dataclasses.field(default_factory=dict)
    embedding: npt.NDArray[np.float32] | None = dataclasses.field(default=None, repr=False, compare=False)
    encoder_digest: str = ""

    def __post_init__(self) -> None:
        _check_id(self.item_id)
        if not self.image:
            raise ValueError(f"image of {self.item_id!r} must not be empty.")
        if not _SHA256.fullmatch(self.sha256):
            raise ValueError(f"sha256 of {self.item_id!r} must be 64 hex digits, got {self.sha256!r}.")
        for name, pixels in (("width", self.width), ("height", self.height)):
            if pixels < 1:
                raise ValueError(f"{name} of {self.item_id!r} must be at least 1, got {pixels}.")
        for name, value in self.attributes.items():
            check_attribute(self.item_id, name, value)
        if (self.embedding is not None) != bool(self.encoder_digest):
            raise ValueError(f"{self.item_id!r} must have both an embedding and an encoder digest, or neither.")
        if self.embedding is not None and (self.embedding.ndim != 1 or self.embedding.dtype != np.float32):
            raise ValueError(
                f"embedding of {self.item_id!r} must be float32 [D], "
                f"got {self.embedding.dtype} {list(self.embedding.shape)}."
            )


@dataclasses.dataclass(frozen=True)
class Tombstone:
    """An item is gone, and stays gone until a later upsert. purge: whether its bytes are to be erased everywhere."""

    item_id: str
    purge: bool = False

    def __post_init__(self) -> None:
        _check_id(self.item_id)


Change = Upsert | Tombstone


@dataclasses.dataclass(frozen=True)
class Entry:
    """A change with its stamp. Of all entries of an item the one with the latest stamp counts."""

    stamp: Stamp
    change: Change


def check_attribute(item_id: str, name: str, value: object) -> None:
    """Raises ValueError where `value` is neither text, an int64, a finite float nor a bool."""
    if isinstance(value, (str, bool)) or (isinstance(value, int) and value in _INTEGERS):
        return
    if isinstance(value, float) and math.isfinite(value):
        return
    raise ValueError(
        f"attribute {name!r} of {item_id!r} must be text, an int64, a finite float or a bool, got {value!r}."
    )


def _check_id(item_id: str) -> None:
    if not item_id:
        raise ValueError("item_id must not be empty.")
