"""Images in a zip or tar file: listed and read in place, never unpacked to disk.

A zip and a plain tar are read at random. A compressed tar can only be read from its start: every shard reads through
it once and keeps nothing but its own members, which costs (shards + 1) decompressions and no disk. Where that hurts,
bring the same images as a plain tar or a zip: they hardly compress anyway.
"""

import contextlib
import posixpath
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence

from components.ingest.folders import file_version
from components.ingest.listing import Entry, ListingError, Source, judge, open_file

# What the three modules raise on a damaged or encrypted member.
_DAMAGED = (OSError, EOFError, RuntimeError, NotImplementedError, zipfile.BadZipFile, tarfile.TarError, zlib.error)


def list_archive(source: Source) -> Iterator[Entry]:
    """Yields every file in the archive; raises ListingError where it isn't there or isn't an archive."""
    try:
        if _is_zip(source.uri):
            yield from _list_zip(source.uri)
        else:
            yield from _list_tar(source.uri)
    except FileNotFoundError as error:
        raise ListingError(f"{source.images} is not there.") from error
    except _DAMAGED as error:
        raise ListingError(f"{source.images} can't be read as an archive: {error}. Make it anew.") from error


def read_members(uri: str, entries: Sequence[Entry], max_bytes: int) -> Iterator[tuple[Entry, bytes | None]]:
    """Yields each of `entries` with at most `max_bytes` + 1 of its bytes, or None where it can't be read."""
    if _is_zip(uri):
        yield from _read_zip(uri, entries, max_bytes)
    elif uri.lower().endswith(".tar"):
        with open_file(uri) as file:
            for entry in sorted(entries, key=lambda entry: entry.place):
                file.seek(entry.place)
                data = file.read(min(entry.size, max_bytes + 1))
                yield entry, data if len(data) == min(entry.size, max_bytes + 1) else None
    else:
        yield from _read_stream(uri, entries, max_bytes)


def member_id(name: str) -> str:
    """Returns a member's name as an id: relative, with `/`, and without a way out of the archive."""
    return posixpath.normpath("/" + name.replace("\\", "/")).lstrip("/")


def _is_zip(uri: str) -> bool:
    return uri.lower().endswith(".zip")


def _list_zip(uri: str) -> Iterator[Entry]:
    with open_file(uri) as file, zipfile.ZipFile(file) as archive:
        for place, member in enumerate(archive.infolist()):
            if not member.is_dir():
                place_uri, version = f"zip://{member.filename}::{uri}", f"crc:{member.CRC:08x}"
                yield judge(Entry(member_id(member.filename), place_uri, member.file_size, version, place))


def _read_zip(uri: str, entries: Sequence[Entry], max_bytes: int) -> Iterator[tuple[Entry, bytes | None]]:
    with open_file(uri) as file, zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        for entry in sorted(entries, key=lambda entry: entry.place):
            data = None
            with contextlib.suppress(*_DAMAGED), archive.open(members[entry.place]) as member:
                data = member.read(max_bytes + 1)
            yield entry, data


def _list_tar(uri: str) -> Iterator[Entry]:
    is_plain = uri.lower().endswith(".tar")
    # A tar holds no checksum of its members, and their times are whoever packed it said: a new tar is new throughout.
    version = file_version(uri)[1]
    with open_file(uri) as file, tarfile.open(fileobj=file, mode="r:" if is_plain else "r|*") as archive:
        for number, member in enumerate(_members(archive)):
            if member.isdir():
                continue
            place = member.offset_data if is_plain else number
            entry = judge(Entry(member_id(member.name), f"tar://{member.name}::{uri}", member.size, version, place))
            # Links and devices hold no bytes of their own, and sparse files not in one piece.
            if (not member.isreg() or member.issparse()) and entry.reason is None:
                entry = entry._replace(reason="not-a-file")
            yield entry


def _read_stream(uri: str, entries: Sequence[Entry], max_bytes: int) -> Iterator[tuple[Entry, bytes | None]]:
    wanted = {entry.place: entry for entry in entries}
    with contextlib.suppress(*_DAMAGED), open_file(uri) as file, tarfile.open(fileobj=file, mode="r|*") as archive:
        for number, member in enumerate(_members(archive)):
            if not wanted:
                break
            if number in wanted:
                content = archive.extractfile(member)
                data = content.read(max_bytes + 1) if content else None
                yield wanted.pop(number), data
    # What a damaged archive didn't come to.
    for entry in wanted.values():
        yield entry, None


def _members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    while (member := archive.next()) is not None:
        yield member
        # Or tarfile would remember every member it has passed.
        archive.members = []  # type: ignore[attr-defined]
