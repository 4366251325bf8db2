"""The evaluation of an index as a page that needs nothing beside it."""

import base64
import html
from collections.abc import Sequence
from typing import Any

from components.index_plot import describe_scoring
from serving.index import Choice, Point

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; margin: .5rem 0 1.5rem; } caption { text-align: left; font-weight: 600; }
th, td { border-bottom: 1px solid #ddd; padding: .25rem .75rem .25rem 0; text-align: left; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
tr.chosen { font-weight: 600; background: #f3f8f4; } img { max-width: 100%; }
"""
# A share of the items in groups that few collections have by copies alone.
_MANY_GROUPED = 0.1
_COLUMNS = ("leaves", "searched", "re-ranked", "recall@10", "queries/s", "bytes/item", "build s")


def render_index_report(evaluation: dict[str, Any], picture: bytes, groups: bytes | None = None) -> str:
    """Returns the HTML page. evaluation: see components.index_evaluator. picture: a PNG, put inside the page.

    groups: a PNG of the largest groups of near-duplicates; None where there are none.
    """
    gate, tuning = evaluation["gate"], evaluation["tuning"]
    title = f"Index: {evaluation['kind']}, {evaluation['count']:,} items in {evaluation['shards']} shards"
    verdict = "reached" if gate["met"] else "missed"
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        f"<p>Recall@{gate['k']} of {gate['recall']:.4f} on {evaluation['queries']} queries; {gate['min_recall']} asked "
        f"for: {verdict}. {evaluation['queries_per_second']:,.0f} queries per second in a batch.</p>",
        _image("recall, latency, and what there was to choose from", picture),
        *_tuning(tuning),
        *_duplicates(evaluation["duplicates"], evaluation["count"], groups),
    ]
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{_STYLE}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n' + "\n".join(parts) + "\n</body></html>\n"


def _image(text: str, picture: bytes) -> str:
    return f'<img alt="{text}" src="data:image/png;base64,{base64.b64encode(picture).decode()}">'


def _duplicates(found: dict[str, Any] | None, count: int, picture: bytes | None) -> list[str]:
    if found is None:
        return ["<p>Near-duplicates were not looked for.</p>"]
    said = (
        f"<p>Groups of near-duplicates: {found['groups']:,} ({found['identical']:,} of identical content), of "
        f"{found['items']:,} items; up to {found['hamming']} of 64 bits, cosine of at least {found['cosine']}.</p>"
    )
    parts = [said]
    if found["items"] > _MANY_GROUPED * count:
        share = f"{found['items'] / count:.0%} of all items are in a group."
        parts.append(
            f"<p><strong>{share}</strong> Look whether these are copies: of pictures with little in them (digits,"
            " icons, drawings) many hash alike and lie near one another, and then index.duplicates wants a lower"
            " hamming (4) and a higher cosine (0.98).</p>"
        )
    return parts if picture is None else [*parts, _image("the largest groups of near-duplicates", picture)]


def _tuning(tuning: dict[str, Any]) -> list[str]:
    if tuning["method"] == "rule":
        return ["<p>The parameters are given, or those of the rule of thumb: nothing was searched.</p>"]
    calibration = Choice.from_dict(tuning["calibration"])
    kept = "kept from the release that this one builds on" if tuning["method"] == "base" else "searched"
    said = f"<p>The parameters were {kept}, for a recall@10 of {calibration.target} at the least time per query.</p>"
    parts = [
        said,
        _table(
            f"The largest shard, {calibration.count:,} items, as it was built: {calibration.seconds:.1f} s",
            calibration.frontier,
            calibration.point,
        ),
    ]
    if tuning["search"]:
        search = Choice.from_dict(tuning["search"])
        caption = (
            f"What there was to choose from, on {search.sampled:,} of {search.count:,} items: {search.seconds:.1f} s"
        )
        parts.append(_table(caption, search.frontier, search.point))
    return parts


def _table(caption: str, points: Sequence[Point], chosen: Point) -> str:
    head = "".join(f'<th class="number">{name}</th>' for name in _COLUMNS)
    rows = "\n".join(_row(point, point == chosen) for point in points)
    return f"<table><caption>{html.escape(caption)}</caption>\n<tr><th>scoring</th>{head}</tr>\n{rows}\n</table>"


def _row(point: Point, chosen: bool) -> str:
    parameters = point.parameters
    values = (
        f"{parameters.leaves:,}",
        f"{parameters.leaves_to_search:,}",
        f"{parameters.reorder:,}" if parameters.scoring == "hash" or parameters.kind == "hamming" else "",
        f"{point.recall:.4f}",
        f"{point.queries_per_second:,.0f}",
        f"{point.bytes_per_item:,.0f}",
        f"{point.build_seconds:.1f}",
    )
    cells = "".join(f'<td class="number">{value}</td>' for value in values)
    mark = ' class="chosen"' if chosen else ""
    return f"<tr{mark}><td>{html.escape(describe_scoring(parameters))}</td>{cells}</tr>"
