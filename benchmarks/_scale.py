"""Writes the tables of docs/scale.md, and of `embed` and `growth` in docs/results.md, from results of full scale.

  python -m benchmarks._scale        prints them
  python -m benchmarks._scale --write

What a billion images would take is computed from results/growth.json, embed.json and pipeline.json. Everything that is
not measured there is an assumption below.
"""

import json
import math
import pathlib
import re
import sys
from typing import Any

from benchmarks._results import RESULTS

DOCS = RESULTS.parents[1] / "docs"
ITEMS = 10**9
# Assumptions: a machine, its price, how full it may get, how many hold each leaf, how much changes in a reindex.
CORES, MEMORY_GIB, DOLLARS_PER_HOUR = 8, 64, 0.40
USABLE = 0.75
REPLICAS = 2
DOLLARS_PER_GIB_MONTH = 0.02
RELEASES_KEPT = 3
CHANGED = 0.01
SHARD_SIZES = (250_000, 1_000_000, 10_000_000)
HOURS_PER_MONTH = 730
MEASURED_CORES = 2

Results = dict[str, Any]


def table(columns: list[str], rows: list[list[str]]) -> list[str]:
    """Returns the lines of a Markdown table."""
    return [f"| {' | '.join(line)} |" for line in (columns, ["---"] * len(columns), *rows)]


def number(value: Any) -> str:
    """Returns a figure of three digits, or what else there is."""
    if not isinstance(value, float):
        return f"{value:,}" if isinstance(value, int) else str(value)
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def measured(rows: list[dict[str, Any]]) -> list[str]:
    """Returns rows of results as a table."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    return table(columns, [[number(row.get(column, "")) for column in columns] for row in rows])


def embed_table(embed: Results) -> list[str]:
    """Returns what was measured of the Embedder, and its goals."""
    return [*measured(embed["rows"]), "", *goals(embed)]


def growth_tables(growth: Results) -> list[str]:
    """Returns what was measured of growth."""
    stages = ("embed", "build, load, query")
    parts = [[{**row} for row in growth["rows"] if row["stage"] == stage] for stage in stages]
    lines: list[str] = []
    for rows in parts:
        lines += [*measured([{name: value for name, value in row.items() if name != "stage"} for row in rows]), ""]
    return [*lines, *goals(growth)]


def goals(results: Results) -> list[str]:
    """Returns a line for each goal."""
    lines = []
    for goal in results["goals"]:
        missed = "" if goal["met"] else " (**not met**)"
        lines.append(f"- {goal['name']}: {number(goal['value'])}, goal {number(goal['goal'])}{missed}")
    return lines


def making(growth: Results, embed: Results, pipeline: Results) -> list[str]:
    """Returns what making a release of a billion takes."""
    rates = {row["images"]: row["images/s"] for row in embed["rows"] if row["run"] == "job, 1 worker of one thread"}
    ingest = next(row for row in pipeline["rows"] if row["component"] == "ImageExampleGen")["images/s"]
    largest = growth["build"][-1]
    each = largest["build"]["seconds"] / largest["items"]
    steps = [("ingest, digits", f"{ingest:,.0f} images/s, one worker", ITEMS / ingest)]
    steps += [
        (f"embed, {kind}", f"{rate:,.0f} images/s, one worker of one thread", ITEMS / rate)
        for kind, rate in rates.items()
    ]
    steps.append((f"embed {CHANGED:.0%} of the photos", "the same", CHANGED * ITEMS / rates["photos"]))
    text = f"{1e6 * each:.0f} us an item on {MEASURED_CORES} cores"
    steps.append(("build", text, MEASURED_CORES * ITEMS * each))
    rows = []
    for name, text, seconds in steps:
        hours = seconds / 3600
        rows.append([name, text, number(hours), number(hours / 100), number(hours / CORES * DOLLARS_PER_HOUR)])
    return table(["step", "measured", "core hours", "hours on 100 cores", "dollars"], rows)


def serving(growth: Results) -> list[str]:
    """Returns what serving a billion takes, by the size of a shard."""
    rows = {row["items"]: row for row in growth["rows"] if row["stage"] == "build, load, query"}
    few, many, most = rows[100_000], rows[250_000], rows[1_000_000]
    power = math.log(many["p50 ms"] / few["p50 ms"]) / math.log(250_000 / 100_000)
    memory, disk = most["memory B/item"], most["disk B/item"]
    machines = REPLICAS * math.ceil(ITEMS * memory / 2**30 / (USABLE * MEMORY_GIB))
    lines = []
    for size in SHARD_SIZES:
        shards = ITEMS // size
        milliseconds = many["p50 ms"] * (size / 250_000) ** power
        spent = shards * milliseconds / 1000
        lines.append(
            [
                f"{size:,}{'' if size == 250_000 else ' (extrapolated)'}",
                f"{shards:,}",
                number(size * memory / 2**30),
                number(milliseconds),
                number(spent),
                number(machines * CORES * USABLE / spent),
            ]
        )
    columns = ["items in a shard", "shards", "GiB of a shard", "ms of a query in a shard", "core seconds of a query"]
    kept = RELEASES_KEPT * ITEMS * disk / 2**30
    dollars = machines * HOURS_PER_MONTH * DOLLARS_PER_HOUR
    return [
        f"Memory: {number(memory)} B an item (1,000,000 items in four shards),"
        f" {number(ITEMS * memory / 2**30)} GiB in all; with {REPLICAS} replicas of each leaf {machines} machines,"
        f" {number(dollars)} dollars a month. Disk: {number(disk)} B an item; {RELEASES_KEPT} releases kept are"
        f" {number(kept)} GiB, {number(kept * DOLLARS_PER_GIB_MONTH)} dollars a month. The time of a query grows"
        f" with the {power:.2f}th power of a shard's items (from 100,000 to 250,000, one shard).",
        "",
        *table([*columns, "queries/s of all machines"], lines),
    ]


def tail(growth: Results) -> list[str]:
    """Returns the simulated fan-out."""
    return measured(growth["tail"])


def replaced(text: str, name: str, lines: list[str]) -> str:
    """Returns `text` with what lies between the marks of `name` replaced."""
    marks = re.compile(rf"(<!-- {name}: python -m benchmarks\._scale --write -->\n).*?(<!-- end -->)", re.DOTALL)
    changed, found = marks.subn(lambda match: match[1] + "\n".join(lines) + "\n" + match[2], text)
    if found != 1:
        raise SystemExit(f"there must be one place for {name!r}, found {found}.")
    return changed


def main() -> None:
    growth, embed, pipeline = (
        json.loads((RESULTS / f"{name}.json").read_text()) for name in ("growth", "embed", "pipeline")
    )
    pages = {
        "scale.md": {
            "making": making(growth, embed, pipeline),
            "serving": serving(growth),
            "tail": tail(growth),
        },
        "results.md": {"embed": embed_table(embed), "growth": growth_tables(growth)},
    }
    for page, parts in pages.items():
        path = pathlib.Path(DOCS, page)
        text = path.read_text()
        for name, lines in parts.items():
            sys.stdout.write(f"\n{page}, {name}:\n" + "\n".join(lines) + "\n")
            text = replaced(text, name, lines)
        if "--write" in sys.argv[1:]:
            path.write_text(text)


if __name__ == "__main__":
    main()
