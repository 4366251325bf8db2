"""Prints the tables of docs/scale.md: what a billion images would take, from the measured figures of this repository.

  python -m benchmarks._scale        reads results/growth.json and results/embed.json, of full scale

Everything that is not measured is an assumption below.
"""

import json
import math
import sys
from typing import Any

from benchmarks._results import RESULTS

ITEMS = 10**9
# Assumptions: a machine, its price, how full it may get, how many of each leaf, how often an item changes.
CORES, MEMORY_GIB, DOLLARS_PER_HOUR = 8, 64, 0.40
USABLE = 0.75
REPLICAS = 2
DISK_DOLLARS_PER_GIB_MONTH = 0.02
RELEASES_KEPT = 3
SHARD_SIZES = (250_000, 1_000_000, 10_000_000)
CHANGED = 0.01
HOURS_PER_MONTH = 730


def main() -> None:
    growth, embed = (json.loads((RESULTS / f"{name}.json").read_text()) for name in ("growth", "embed"))
    for line in [*rebuild(growth, embed), "", *serving(growth), "", *tail(growth)]:
        sys.stdout.write(line + "\n")


def rebuild(growth: dict[str, Any], embed: dict[str, Any]) -> list[str]:
    """Returns the table of what building a release takes."""
    rates = {row["images"]: row["images/s"] for row in embed["rows"] if row["run"] == "job, 1 worker of one thread"}
    largest = growth["build"][-1]
    seconds = largest["build"]["seconds"] / largest["items"]
    lines = [
        "| step | measured | a billion, core hours | on 100 cores, hours | dollars |",
        "| --- | --- | --- | --- | --- |",
    ]
    steps = [(f"embed, {kind}", f"{rate:,.0f} images/s a core", ITEMS / rate) for kind, rate in rates.items()]
    photos = ITEMS * CHANGED / rates["photos"]
    steps.append((f"embed {CHANGED:.0%} of them, photos", "the same", photos))
    # Two cores worked at it.
    steps.append(("build all shards", f"{1e6 * seconds:.0f} us an item on 2 cores", 2 * ITEMS * seconds))
    for name, text, spent in steps:
        hours = spent / 3600
        lines.append(
            f"| {name} | {text} | {hours:,.0f} | {hours / 100:,.1f} | {hours / CORES * DOLLARS_PER_HOUR:,.0f} |"
        )
    return lines


def serving(growth: dict[str, Any]) -> list[str]:
    """Returns the table of what serving takes, by the size of a shard; a leaf holds one."""
    rows = {row["items"]: row for row in growth["rows"] if row["stage"] == "build, load, query"}
    one, other = rows[100_000], rows[250_000]
    power = math.log(other["p50 ms"] / one["p50 ms"]) / math.log(2.5)
    largest = rows[1_000_000]
    memory = largest["memory B/item"]
    disk = largest["disk B/item"]
    lines = [
        f"Query time grows with the {power:.2f}th power of a shard's items (100,000 to 250,000, measured); memory is"
        f" {memory:,.0f} B an item, disk {disk:,.0f} B, at a million.",
        "",
        "| items in a shard | leaves | GiB of each | machines | CPU of a query | queries/s | dollars a month |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for size in SHARD_SIZES:
        leaves = ITEMS // size
        gib = size * memory / 2**30
        machines = REPLICAS * math.ceil(ITEMS * memory / 2**30 / (USABLE * MEMORY_GIB))
        milliseconds = other["p50 ms"] * (size / 250_000) ** power
        spent = leaves * milliseconds / 1000
        rate = machines * CORES * USABLE / spent
        dollars = machines * HOURS_PER_MONTH * DOLLARS_PER_HOUR
        mark = "" if size == 250_000 else " (extrapolated)"
        lines.append(
            f"| {size:,} | {leaves:,} | {gib:.2f} | {machines} | {spent:.2f} s{mark} | {rate:,.0f} | {dollars:,.0f} |"
        )
    kept = RELEASES_KEPT * ITEMS * disk / 2**30
    lines += [
        "",
        f"{RELEASES_KEPT} releases kept: {kept:,.0f} GiB, {kept * DISK_DOLLARS_PER_GIB_MONTH:,.0f} dollars a month.",
    ]
    return lines


def tail(growth: dict[str, Any]) -> list[str]:
    """Returns the table of the simulated fan-out."""
    columns = list(growth["tail"][0])
    lines = [f"| {' | '.join(columns)} |", "|" + " --- |" * len(columns)]
    lines += [f"| {' | '.join(f'{value:.3g}' for value in row.values())} |" for row in growth["tail"]]
    return lines


if __name__ == "__main__":
    main()
