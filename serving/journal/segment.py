"""The file of one acknowledged group of changes.

A magic line; one line of JSON, the header: for every entry what it says, and where in the rest its image and embedding
are; then these blobs, one after the other; at the end the sha256 over all of it, in hex. Nothing in it is executed.
"""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from serving.journal.clock import Stamp
from serving.journal.entry import Entry, Tombstone, Upsert

_MAGIC = b"lookalike journal segment 1\n"
_DIGEST = 64  # hex digits at the end
# What an entry takes in a segment beside its image and its embedding, at the least.
_ENTRY_BYTES = 512


class SegmentDamaged(ValueError):
    """A segment that is not, byte for byte, what its writer wrote."""


def size_of(change: Upsert | Tombstone) -> int:
    """Returns about how many bytes a change takes in a segment."""
    if isinstance(change, Tombstone):
        return _ENTRY_BYTES
    return _ENTRY_BYTES + len(change.image) + (0 if change.embedding is None else change.embedding.nbytes)


def to_bytes(entries: Sequence[Entry]) -> bytes:
    """Returns the segment that holds `entries`; raises ValueError where an image is not what its sha256 says."""
    header, blobs = [], []
    offset = 0
    for entry in entries:
        value, parts = _described(entry, offset)
        header.append(value)
        blobs.extend(parts)
        offset += sum(map(len, parts))
    line = json.dumps({"entries": header}, allow_nan=False, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256()
    whole = [_MAGIC, line.encode() + b"\n", *blobs]
    for part in whole:
        digest.update(part)
    return b"".join([*whole, digest.hexdigest().encode()])


def from_bytes(data: bytes) -> list[Entry]:
    """Returns the entries of a segment, in the order they were written; raises SegmentDamaged."""
    if not data.startswith(_MAGIC):
        raise SegmentDamaged(f"it begins with {data[: len(_MAGIC)]!r}, expected {_MAGIC!r}.")
    view = memoryview(data)
    body, said = view[:-_DIGEST], bytes(view[-_DIGEST:])
    if hashlib.sha256(body).hexdigest().encode() != said:
        raise SegmentDamaged(f"its {len(data)} bytes are not those that were written: their sha256 is another.")
    end = data.find(b"\n", len(_MAGIC))
    try:
        header = json.loads(data[len(_MAGIC) : end])
        return [_entry(value, body[end + 1 :]) for value in header["entries"]]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise SegmentDamaged(f"its header says what can't be: {error!r}") from error


def _described(entry: Entry, offset: int) -> tuple[dict[str, Any], list[bytes]]:
    change = entry.change
    if isinstance(change, Tombstone):
        return {"stamp": entry.stamp, "kind": "tombstone", "item_id": change.item_id, "purge": change.purge}, []
    if hashlib.sha256(change.image).hexdigest() != change.sha256:
        raise ValueError(f"image of {change.item_id!r} has another sha256 than {change.sha256}.")
    value: dict[str, Any] = {
        "stamp": entry.stamp,
        "kind": "upsert",
        "item_id": change.item_id,
        "uri": change.uri,
        "attributes": dict(change.attributes),
        "width": change.width,
        "height": change.height,
        "sha256": change.sha256,
        "image": [offset, len(change.image)],
        "embedding": None,
    }
    if change.embedding is None:
        return value, [change.image]
    vector = np.ascontiguousarray(change.embedding, "<f4").tobytes()
    value["embedding"] = [offset + len(change.image), len(vector), hashlib.sha256(vector).hexdigest()]
    value["encoder_digest"] = change.encoder_digest
    return value, [change.image, vector]


def _entry(value: dict[str, Any], blobs: memoryview) -> Entry:
    milliseconds, count, writer = value["stamp"]
    stamp = Stamp(int(milliseconds), int(count), str(writer))
    kind = value["kind"]
    if kind == "tombstone":
        return Entry(stamp, Tombstone(value["item_id"], bool(value["purge"])))
    if kind != "upsert":
        raise ValueError(f"kind must be 'upsert' or 'tombstone', got {kind!r}.")
    vector = None
    if value["embedding"] is not None:
        offset, size, sha256 = value["embedding"]
        vector = np.frombuffer(_blob(blobs, offset, size, sha256), "<f4").astype(np.float32)
    offset, size = value["image"]
    return Entry(
        stamp,
        Upsert(
            item_id=value["item_id"],
            image=_blob(blobs, offset, size, value["sha256"]),
            sha256=value["sha256"],
            width=value["width"],
            height=value["height"],
            uri=value["uri"],
            attributes=value["attributes"],
            embedding=vector,
            encoder_digest=value.get("encoder_digest", ""),
        ),
    )


def _blob(blobs: memoryview, offset: int, size: int, sha256: str) -> bytes:
    if not 0 <= offset <= offset + size <= len(blobs):
        raise ValueError(f"a blob must lie in [0, {len(blobs)}), got {size} bytes from {offset}.")
    blob = bytes(blobs[offset : offset + size])
    if hashlib.sha256(blob).hexdigest() != sha256:
        raise ValueError(f"the blob at {offset} has another sha256 than {sha256}.")
    return blob
