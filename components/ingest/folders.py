"""The files of a folder, local or at any URL that fsspec knows, with what changes when they do."""

import concurrent.futures
import contextlib
import os
import pathlib
import posixpath
import re
import stat
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import fsspec

from components.ingest.listing import ARCHIVES, MANIFESTS, MAX_LEVELS, SPAN, Entry, ListingError, Source, is_utf8, judge

_STATS_AT_ONCE = 512


def list_folder(source: Source) -> Iterator[Entry]:
    """Yields every file of a folder, a folder's worth of names in memory at a time; of its spans where it has some.

    Hidden folders are passed over as one entry. Raises ListingError where there is no such folder, no span, or an
    image deeper than MAX_LEVELS.
    """
    if source.span_pattern is None:
        yield from _walk(source.uri, "", 0, 0)
        return
    numbers = _span_expression(source.span_pattern)
    is_any = False
    for entry in _children(source.uri):
        match = numbers.fullmatch(entry.name)
        if not match or not entry.is_folder:
            outside = Entry(entry.name, entry.uri, entry.size, entry.version, is_claim=False, reason="outside-spans")
            yield outside if is_utf8(entry.name) else judge(outside)
        elif source.last_span is None or int(match[1]) <= source.last_span:
            is_any = True
            yield from _walk(entry.uri, "", int(match[1]), 1)
    if not is_any:
        upto = "" if source.last_span is None else f" up to {source.last_span}"
        raise ListingError(f"{source.images} must hold folders named {source.span_pattern}{upto}, found none.")


def with_stats(entries: Iterable[Entry]) -> Iterator[Entry]:
    """Yields `entries` with the size and version of their uris; what isn't there gets the reason `missing`."""
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        batch: list[Entry] = []
        for entry in entries:
            batch.append(entry)
            if len(batch) == _STATS_AT_ONCE:
                yield from pool.map(_with_stat, batch)
                batch = []
        yield from pool.map(_with_stat, batch)


def file_version(uri: str) -> tuple[int, str]:
    """Returns a file's size in bytes and what changes with its content; raises FileNotFoundError."""
    if "://" not in uri:
        found = pathlib.Path(uri).stat()
        if not stat.S_ISREG(found.st_mode):
            raise FileNotFoundError(f"{uri} is not a file.")
        return found.st_size, str(found.st_mtime_ns)
    files, path = fsspec.core.url_to_fs(uri)
    files.invalidate_cache()
    info = files.info(path)
    if info["type"] != "file":
        raise FileNotFoundError(f"{uri} is not a file.")
    return int(info.get("size") or 0), _version(info)


def _span_expression(pattern: str) -> re.Pattern[str]:
    before, width, after = SPAN.split(pattern)
    digits = f"\\d{{{width}}}" if width else "\\d+"
    return re.compile(f"{re.escape(before)}({digits}){re.escape(after)}")


class _Child(NamedTuple):
    name: str
    uri: str
    is_folder: bool
    size: int
    version: str
    reason: str | None = None


def _walk(folder: str, prefix: str, span: int, levels: int) -> Iterator[Entry]:
    for child in _children(folder):
        name, uri, is_folder, size, version, reason = child
        entry = judge(Entry(prefix + name, uri, size, version, 0, span))
        if is_folder:
            if entry.reason == "hidden":
                yield entry
            else:
                yield from _walk(uri, f"{prefix}{name}/", span, levels + 1)
            continue
        if levels >= MAX_LEVELS and entry.reason is None:
            raise ListingError(
                f"images may lie at most {MAX_LEVELS - 1} folders deep, got {entry.uri}: move them up, "
                "name the folder that holds them, or name them in a manifest."
            )
        if reason and entry.reason is None:
            entry = entry._replace(reason=reason)
        yield entry


def _children(folder: str) -> Iterator[_Child]:
    return _remote_children(folder) if "://" in folder else _local_children(folder)


def _local_children(folder: str) -> Iterator[_Child]:
    try:
        found = sorted(os.scandir(folder), key=lambda child: child.name)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ListingError(
            f"{folder} must be a folder, an archive ({', '.join(ARCHIVES)}) or a manifest ({', '.join(MANIFESTS)}): "
            f"{error.strerror}."
        ) from error
    for child in found:
        try:
            status = child.stat()
        except OSError:  # a link to nowhere, or to itself
            yield _Child(child.name, child.path, False, -1, "", "missing")
            continue
        if stat.S_ISREG(status.st_mode):
            yield _Child(child.name, child.path, False, status.st_size, str(status.st_mtime_ns))
            continue
        if stat.S_ISDIR(status.st_mode):
            if child.is_symlink() and _is_above(child.path, folder):
                yield _Child(child.name, child.path, False, -1, "", "link-to-parent")
                continue
            yield _Child(child.name, child.path, True, 0, "")
            continue
        yield _Child(child.name, child.path, False, status.st_size, str(status.st_mtime_ns), "not-a-file")


def _is_above(link: str, folder: str) -> bool:
    target, place = pathlib.Path(link).resolve(), pathlib.Path(folder).resolve()
    return target == place or target in place.parents


def _remote_children(folder: str) -> Iterator[_Child]:
    files, path = fsspec.core.url_to_fs(folder)
    files.invalidate_cache()
    try:
        found = files.ls(path, detail=True)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ListingError(f"{folder} must be a folder, an archive or a manifest, and there is none.") from error
    for info in sorted(found, key=lambda info: info["name"]):
        name = posixpath.basename(info["name"].rstrip("/"))
        # An object store lists the empty object that stands for the folder itself.
        if not name or info["name"].rstrip("/") == path.rstrip("/"):
            continue
        is_folder = info["type"] == "directory"
        yield _Child(
            name, f"{folder}/{name}", is_folder, int(info.get("size") or 0), "" if is_folder else _version(info)
        )


_VERSIONS = ("etag", "ETag", "generation", "md5Hash", "mtime", "LastModified", "updated", "last_modified", "created")


def _version(info: dict[str, Any]) -> str:
    for key in (
        "etag",
        "ETag",
        "generation",
        "md5Hash",
        "mtime",
        "LastModified",
        "updated",
        "last_modified",
        "created",
    ):
        if info.get(key):
            return str(info[key])
    return ""


def _with_stat(entry: Entry) -> Entry:
    with contextlib.suppress(OSError):
        size, version = file_version(entry.uri)
        return entry._replace(size=size, version=version)
    return entry._replace(reason="missing")
