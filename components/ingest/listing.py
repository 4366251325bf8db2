"""What a collection consists of: where it comes from, and its entries with what their names tell."""

import dataclasses
import os
import posixpath
import re
from typing import IO, NamedTuple

import fsspec

MAX_LEVELS = 8  # of path components below the collection's folder: as many input splits tell TFX's driver of them
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
MANIFESTS = (".csv", ".jsonl")
# A file with such a name claims to be an image: where it can't be used, it counts towards the share that may be
# skipped. Formats that we don't take are among them: a folder of HEIC photographs must fail and not look empty.
IMAGE_SUFFIXES = frozenset(
    f".{suffix}"
    for suffix in (
        *("jpg", "jpeg", "jpe", "jfif", "mpo", "png", "apng", "webp", "gif", "bmp", "dib", "tif", "tiff"),
        *("heic", "heif", "avif", "jp2", "jxl"),
    )
)
_LITTER = frozenset(["thumbs.db", "desktop.ini", "__macosx"])
# What `judge` has nothing to say of, told in one go: ASCII, an image's extension, nothing hidden.
_PLAIN = re.compile(
    rf"(?:(?!\.|(?:{'|'.join(map(re.escape, sorted(_LITTER)))})/)[^/\x80-\U0010ffff]+/)*(?!\.)[^/\x80-\U0010ffff]+"
    rf"(?:{'|'.join(map(re.escape, sorted(IMAGE_SUFFIXES)))})",
    re.ASCII | re.IGNORECASE,
)
SPAN = re.compile(r"\{SPAN(?::(\d+))?\}")


class ListingError(ValueError):
    """A collection that can't be listed; the message says what to do."""


@dataclasses.dataclass(frozen=True)
class Source:
    """Where images come from. images: a folder, an archive or a manifest, by its name; local or any URL fsspec knows.

    span_pattern: such as `span-{SPAN}`, for a folder of span folders. last_span: the last one that is read.
    """

    images: str
    span_pattern: str | None = None
    last_span: int | None = None

    def __post_init__(self) -> None:
        if not self.images:
            raise ListingError("images must name a folder, an archive or a manifest, got nothing.")
        if self.span_pattern is None:
            if self.last_span is not None:
                raise ListingError(f"last_span is {self.last_span}, but there is no span_pattern.")
            return
        if self.kind != "folder":
            raise ListingError(f"span_pattern is for folders, and {self.images} is one {self.kind}.")
        if len(SPAN.findall(self.span_pattern)) != 1 or "/" in self.span_pattern:
            raise ListingError(
                "span_pattern must be the name of a folder with one {SPAN} or {SPAN:width}, "
                f"got {self.span_pattern!r}."
            )

    @property
    def kind(self) -> str:
        """`folder`, `archive` or `manifest`."""
        name = self.images.lower()
        if name.endswith(ARCHIVES):
            return "archive"
        return "manifest" if name.endswith(MANIFESTS) else "folder"

    @property
    def uri(self) -> str:
        """`images` as it is found in uris: absolute where it is local."""
        return absolute(self.images)

    @property
    def folder(self) -> str:
        """The folder that TFX's driver looks below."""
        return self.uri if self.kind == "folder" else posixpath.dirname(self.uri)

    @property
    def patterns(self) -> list[str]:
        """What TFX's stock driver must look at below `folder`; its `*` matches one level.

        Beside a manifest that is everything: the images it names are most often there.
        """
        levels = ["/".join("*" * level) for level in range(1, MAX_LEVELS + 1)]
        return [posixpath.basename(self.uri)] if self.kind == "archive" else levels


class Entry(NamedTuple):
    """One file that may be an image. item_id: unique in its span. uri: where it lies, as fsspec opens it.

    size: bytes, -1 where unknown. version: what changes with its content (mtime in ns, or etag). place: where an
    archive holds it. is_claim: whether it says that it is an image. reason: why it can't be used, as far as is known
    without reading it. update: `upsert` or `tombstone` where it comes from the updates of a serving root, and counts
    whatever else is listed. content: of an upsert: sha256, width and height of its canonical image.
    """

    item_id: str
    uri: str
    size: int
    version: str
    place: int = 0
    span: int = 0
    label: str | None = None
    attributes: tuple[tuple[str, int | float | str], ...] = ()
    is_claim: bool = True
    reason: str | None = None
    update: str = ""
    content: tuple[str, int, int] | None = None


def absolute(uri: str) -> str:
    """Returns a local path made absolute, without a trailing `/`; a URL as it is."""
    if "://" in uri and not uri.startswith("file://"):
        return uri.rstrip("/")
    return os.path.abspath(uri.removeprefix("file://"))  # noqa: PTH100 (pathlib's would not drop `..`)


def open_file(uri: str) -> IO[bytes]:
    """Returns the file at a local path or URL, open for reading and seeking."""
    if "://" in uri:
        files, path = fsspec.core.url_to_fs(uri)
        return files.open(path, "rb")
    return open(uri, "rb")


def judge(entry: Entry) -> Entry:
    """Returns `entry` with what its name tells: hidden, no image, or not UTF-8."""
    if entry.uri.isascii() and _PLAIN.fullmatch(entry.item_id):
        return entry
    parts = entry.item_id.split("/")
    suffix = posixpath.splitext(parts[-1])[1].lower()
    if any(part.startswith(".") or part.lower() in _LITTER for part in parts):
        return entry._replace(is_claim=False, reason="hidden")
    if not is_utf8(entry.item_id + entry.uri):
        # Reports and examples hold UTF-8.
        name, uri = (os.fsencode(text).decode("utf-8", "replace") for text in (entry.item_id, entry.uri))
        is_claim = suffix in IMAGE_SUFFIXES
        return entry._replace(item_id=name, uri=uri, is_claim=is_claim, reason="bad-name")
    if suffix in IMAGE_SUFFIXES:
        return entry
    # A file without any extension may be an image (buckets are full of them): it is tried, and claims nothing.
    return entry._replace(is_claim=False, reason="extension" if suffix else None)


def is_utf8(text: str) -> bool:
    """Returns whether `text` can be encoded: a file name of other bytes can not."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
