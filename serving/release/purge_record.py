"""What is written down of purges: `purges/<id>.json`, which items' bytes were to be erased, and since when they are."""

import dataclasses
import json
from collections.abc import Mapping

from serving.journal.clock import Stamp
from serving.release import layout
from serving.storage import Store


@dataclasses.dataclass(frozen=True)
class PurgeRecord:
    """One run of a purge. items: id to the stamp of the delete that asked for it.

    done: seconds since the epoch, None until nothing holds the bytes any more. waits: what still holds them, else
    empty. sha256s: of the contents that are being erased; none when it is done. releases, encoders: what was deleted.
    segments: how many were rewritten. contents, embeddings: how many were deleted.
    """

    purge_id: str
    items: Mapping[str, Stamp]
    done: float | None = None
    waits: str = ""
    sha256s: tuple[str, ...] = ()
    releases: tuple[str, ...] = ()
    encoders: tuple[str, ...] = ()
    segments: int = 0
    contents: int = 0
    embeddings: int = 0

    @property
    def asked(self) -> float:
        """When the first of the items was deleted: seconds since the epoch."""
        return min((stamp.milliseconds for stamp in self.items.values()), default=0) / 1000

    def to_json(self) -> bytes:
        """Returns UTF-8 JSON."""
        value = {**dataclasses.asdict(self), "items": dict(self.items), "asked": self.asked}
        return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()

    @classmethod
    def from_json(cls, data: bytes) -> "PurgeRecord":
        """Returns the record in `data`; raises ValueError where it isn't one."""
        try:
            value = json.loads(data)
            del value["asked"]
            value["items"] = {name: Stamp(*stamp) for name, stamp in value["items"].items()}
            for name in ("sha256s", "releases", "encoders"):
                value[name] = tuple(value[name])
            return cls(**value)
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"not a record of a purge: {error!r}") from error


def read_records(store: Store) -> list[PurgeRecord]:
    """Returns the records of all purges, oldest first; raises ValueError where one is damaged."""
    found = []
    for stat in store.files(layout.PURGES):
        try:
            found.append(PurgeRecord.from_json(store.read(stat.path)))
        except ValueError as error:
            raise ValueError(f"{store.uri}/{stat.path}: {error}") from error
    return found


def write_record(store: Store, record: PurgeRecord) -> None:
    """Writes a record, replacing the one of the same id."""
    store.write(layout.purge_file(record.purge_id), record.to_json())


def delete_record(store: Store, record: PurgeRecord) -> None:
    """Deletes a record."""
    store.delete(layout.purge_file(record.purge_id))
