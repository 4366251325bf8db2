"""What happens to queries while releases are swapped, processes die, too many ask, and bits flip.

  make bench NAME=faults                   15 minutes: 100 swaps, 300 s of kills, 200 flips
  make bench NAME=faults SCALE=small       6 swaps, 30 s with kills, 24 flips
  python -m benchmarks.faults --only swaps   one of swaps, crashes, overload, corruption

Real processes all along: model server, gateway, a load generator. Every answer given while swapping is compared with
brute force over the release that it names; each release has another encoder than the one before.
"""

import argparse
import dataclasses
import functools
import pathlib
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks._corruption import corrupt
from benchmarks._crashes import crash_under_load
from benchmarks._generations import Generations
from benchmarks._overload import overload
from benchmarks._processes import say
from benchmarks._results import Goal, arguments, digits, report
from benchmarks._swaps import swap_under_load

Outcome = tuple[list[dict[str, Any]], list[Goal], list[Goal]]
_QUERIES = 200


class Collection:
    """What the faults are tried on. small: less of it, and shorter."""

    def __init__(self, folder: pathlib.Path, images: pathlib.Path, small: bool) -> None:
        self.folder = folder
        self.small = small
        files = sorted(images.rglob("*.png"))
        items = 1000 if small else 4000
        order = np.random.default_rng(0).permutation(len(files))[: items + _QUERIES]
        # Each picture once: of equal ones nobody could tell which was found.
        self._images = list(dict.fromkeys(files[i].read_bytes() for i in order))

    def generations(self, name: str, count: int) -> Generations:
        """Publishes `count` generations of a serving root of their own."""
        say(f"publishing {count} generations of {len(self._images) - _QUERIES} items")
        return Generations(self.folder / name, self._images[_QUERIES:], self._images[:_QUERIES], count)

    @functools.cached_property
    def one(self) -> Generations:
        """A serving root with one generation, for the faults that need no second."""
        return self.generations("one", 1)


def swaps(collection: Collection) -> Outcome:
    """100 swaps at half of peak."""
    count = 6 if collection.small else 100
    options: dict[str, Any] = {"early": 10, "queries": 100_000, "steady_seconds": 15, "least_period": 1.5}
    if collection.small:
        options = {"early": 2, "queries": 1000, "steady_seconds": 2, "least_period": 1.0}
    found = swap_under_load(collection.folder / "swaps", collection.generations("swaps", count + 1), **options)
    for text in found.wrong[:10]:
        say(text)
    row = {**dataclasses.asdict(found), "wrong": len(found.wrong)}
    growth = found.resident_late / found.resident_early
    certain = [
        Goal("swaps under load", found.swaps, count),
        Goal("failed queries while swapping", sum(found.failed.values()), 0, at_most=True),
        Goal("mixed or wrong answers", len(found.wrong), 0, at_most=True),
    ]
    timed = [
        Goal("queries while swapping", found.queries, 100_000),
        Goal("p99 while swapping, of steady", found.swap_p99 / found.steady_p99, 3, at_most=True),
        Goal("memory at the end, of that after swap 10", growth, 1.05, at_most=True),
    ]
    return [row], certain, timed


def crashes(collection: Collection) -> Outcome:
    """Each killed with p = 0.3 every 5 s."""
    lasting = (15, 15) if collection.small else (300, 30)
    found = crash_under_load(
        collection.folder / "crashes", collection.one, seconds=lasting[0], recovery_seconds=lasting[1]
    )
    certain = [Goal("failed queries outside restarts", found.failed_outside, 0, at_most=True)]
    timed = [Goal(f"recovery of the {name}, s", value, 10, at_most=True) for name, value in found.recovery.items()]
    return [dataclasses.asdict(found)], certain, timed


def overloads(collection: Collection) -> Outcome:
    """Three times the peak."""
    rows, timed = [], []
    for kind in ("image",) if collection.small else ("image", "vector"):
        found = overload(
            collection.folder / f"overload-{kind}", collection.one, kind, seconds=4 if collection.small else 15
        )
        rows.append(dataclasses.asdict(found))
        # Neither answered nor refused in the way that the API promises.
        other = 1 - sum(found.shares.get(code, 0) for code in ("OK", "RESOURCE_EXHAUSTED", "CANCELLED"))
        timed += [
            Goal(f"{kind}: goodput at 3 x peak, of peak", found.goodput / found.peak, 0.9),
            Goal(f"{kind}: p99 of a rejection, ms", 1e3 * found.rejection_p99, 20, at_most=True),
            Goal(f"{kind}: normal again after, s", found.normal_after, 5, at_most=True),
            Goal(f"{kind}: neither answered nor rejected, share", other, 0.001, at_most=True),
        ]
    return rows, [], timed


def corruption(collection: Collection) -> Outcome:
    """A flipped bit in every file."""
    found = corrupt(collection.folder / "corruption", collection.one, flips=24 if collection.small else 200)
    for text in found.served:
        say(f"NOT refused: {text}")
    flips = sum(found.flips.values())
    rows = [{"file": name, "flips": n, "refused": found.refused[name]} for name, n in found.flips.items()]
    certain = [
        Goal("flipped files refused, share", sum(found.refused.values()) / flips, 1),
        Goal("failed queries while refusing", found.failed, 0, at_most=True),
        Goal("the unflipped copy served", float(found.control), 1),
    ]
    return rows, certain, [Goal("flips", flips, 200)]


# Corruption is the last: it leaves a copy current.
FAULTS: dict[str, Callable[[Collection], Outcome]] = {
    "swaps": swaps,
    "crashes": crashes,
    "overload": overloads,
    "corruption": corruption,
}


def measure(folder: pathlib.Path, flags: argparse.Namespace) -> tuple[list[dict[str, Any]], list[Goal]]:
    """Returns a row for each fault, and the goals; those of time only at full scale."""
    collection = Collection(folder, flags.images or digits(folder / "digits"), flags.scale == "small")
    rows: list[dict[str, Any]] = []
    goals: list[Goal] = []
    for name, fault in FAULTS.items():
        if flags.only not in (None, name):
            continue
        say(name)
        found, certain, timed = fault(collection)
        rows += [{"fault": name, **row} for row in found]
        goals += certain if collection.small else [*certain, *timed]
    return rows, goals


def main() -> None:
    flags = arguments(__doc__, only=f"one of {', '.join(FAULTS)}")
    with tempfile.TemporaryDirectory() as scratch:
        rows, goals = measure(pathlib.Path(scratch), flags)
    # Each fault has figures of its own: a table of all would be mostly empty.
    for row in rows:
        print(
            "; ".join(
                f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in row.items()
            )
        )
    # What ran alone must not take the place of all.
    report(f"faults-{flags.only}" if flags.only else "faults", flags.scale, [], goals, figures=rows)


if __name__ == "__main__":
    main()
