"""A manifest of images: a CSV or JSONL file with `uri` and, if wanted, `id`, `label` and any attributes.

A relative `uri` is relative to the manifest; without an `id` the `uri` as it is written is the item's id. Attributes
are int64, float or text, each of one type in all rows. In a CSV file the type is the narrowest that fits every value,
an empty cell is no value, and `007` is text. In a JSONL file it is the value's own; `true` becomes 1; null is no value.
"""

import csv
import io
import json
import math
import posixpath
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from components.ingest.folders import with_stats
from components.ingest.listing import Entry, ListingError, Source, absolute, open_file

Value = int | float | str
_RESERVED = ("uri", "id", "label")
_INTEGER = re.compile(r"[+-]?(0|[1-9]\d{0,18})")
_MOST_TEXT = 1024


def list_manifest(source: Source) -> Iterator[Entry]:
    """Yields an entry for every row, with the size and version of its image; raises ListingError with the line."""
    if source.uri.lower().endswith(".csv"):
        types = _csv_types(source)
        return with_stats(_entries(source, lambda: _csv_rows(source, types)))
    kinds = _json_types(source)
    return with_stats(_entries(source, lambda: _json_rows(source, kinds)))


def _entries(source: Source, rows: Callable[[], Iterator[tuple[int, dict[str, Value]]]]) -> Iterator[Entry]:
    for line, row in rows():
        uri = row.pop("uri", None)
        if not uri:
            raise ListingError(f"{source.images}, line {line}: uri must not be empty.")
        item_id, label = str(row.pop("id", uri)), row.pop("label", None)
        if len(item_id) > _MOST_TEXT or not item_id.isprintable():
            raise ListingError(
                f"{source.images}, line {line}: id must be printable and have at most {_MOST_TEXT} characters, "
                f"got {item_id[:_MOST_TEXT]!r}."
            )
        place = _resolved(source, str(uri))
        attributes = tuple(sorted(row.items()))
        yield Entry(item_id, place, -1, "", label=None if label is None else str(label), attributes=attributes)


def _resolved(source: Source, uri: str) -> str:
    if "://" in uri or uri.startswith("/"):
        return absolute(uri)
    return absolute(posixpath.join(source.folder, uri))


def _open_text(source: Source) -> io.TextIOWrapper:
    try:
        # Excel writes a byte order mark.
        return io.TextIOWrapper(open_file(source.uri), encoding="utf-8-sig", newline="")
    except FileNotFoundError as error:
        raise ListingError(f"{source.images} is not there.") from error


def _csv_texts(source: Source) -> Iterator[tuple[int, dict[str, str]]]:
    with _open_text(source) as file:
        try:
            rows = csv.reader(file, strict=True)
            names = [name.strip() for name in next(rows, [])]
            _check_names(source, names)
            for row in rows:
                if not row:
                    continue
                if len(row) != len(names):
                    raise ListingError(
                        f"{source.images}, line {rows.line_num}: a row must have {len(names)} cells, got {len(row)}."
                    )
                yield rows.line_num, {name: text for name, text in zip(names, row, strict=True) if text != ""}
        except (csv.Error, UnicodeDecodeError) as error:
            raise ListingError(f"{source.images} is not CSV in UTF-8: {error}.") from error


def _check_names(source: Source, names: list[str]) -> None:
    if "uri" not in names:
        raise ListingError(f"{source.images} must have a column `uri`, got {', '.join(names) or 'an empty file'}.")
    if len(set(names)) != len(names) or not all(names):
        raise ListingError(f"{source.images}: columns must have different names, got {', '.join(map(repr, names))}.")


def _csv_types(source: Source) -> dict[str, type]:
    fitting: dict[str, type] = {}
    for _, row in _csv_texts(source):
        for name, text in row.items():
            if name not in _RESERVED and fitting.get(name) is not str:
                found = _type_of(text)
                before = fitting.get(name, found)
                fitting[name] = found if before is found else str if str in (before, found) else float
    return fitting


def _type_of(text: str) -> type:
    if _INTEGER.fullmatch(text) and -(2**63) <= int(text) < 2**63:
        return int
    # Python also takes `1_000` and `nan`; `007` and +33 1 23 are numbers of another kind.
    if re.fullmatch(r"[+-]?(0|[1-9]\d*)?(\.\d*)?([eE][+-]?\d+)?", text) and re.search(r"[.eE]", text):
        try:
            return float if math.isfinite(float(text)) else str
        except ValueError:
            return str
    return str


def _csv_rows(source: Source, types: Mapping[str, type]) -> Iterator[tuple[int, dict[str, Value]]]:
    for line, row in _csv_texts(source):
        yield line, {name: types.get(name, str)(text) for name, text in row.items()}


def _json_objects(source: Source) -> Iterator[tuple[int, dict[str, Any]]]:
    with _open_text(source) as file:
        try:
            for line, text in enumerate(file, 1):
                if not text.strip():
                    continue
                try:
                    row = json.loads(text, parse_constant=_refuse_constant)
                except ValueError as error:
                    raise ListingError(f"{source.images}, line {line}: not JSON: {error}.") from error
                if not isinstance(row, dict):
                    raise ListingError(f"{source.images}, line {line}: must be an object, got {text.strip()[:80]}.")
                yield line, {name: value for name, value in row.items() if value is not None}
        except UnicodeDecodeError as error:
            raise ListingError(f"{source.images} is not UTF-8: {error}.") from error


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")


def _json_types(source: Source) -> dict[str, type]:
    fitting: dict[str, type] = {}
    for line, row in _json_objects(source):
        for name, value in row.items():
            if name in _RESERVED:
                continue
            found = int if isinstance(value, bool) else type(value)
            if not name or found not in (int, float, str):
                raise ListingError(f"{source.images}, line {line}: {name!r} must be a number or text, got {value!r}.")
            if found is int and not -(2**63) <= value < 2**63:
                raise ListingError(f"{source.images}, line {line}: {name!r} must fit 64 bits, got {value}.")
            before = fitting.setdefault(name, found)
            if before is not found and str in (before, found):
                raise ListingError(
                    f"{source.images}, line {line}: {name!r} must be of one type in all lines, got {value!r} after "
                    f"values of type {before.__name__}."
                )
            fitting[name] = found if before is found else float
    return fitting


def _json_rows(source: Source, types: Mapping[str, type]) -> Iterator[tuple[int, dict[str, Value]]]:
    for line, row in _json_objects(source):
        for name in _RESERVED:
            if name in row and (isinstance(row[name], bool) or not isinstance(row[name], str | int)):
                raise ListingError(f"{source.images}, line {line}: {name!r} must be text, got {row[name]!r}.")
        yield line, {name: types.get(name, str)(value) for name, value in row.items()}
