"""What every benchmark has in common: its flags, its table, its JSON, and the machine it ran on."""

import argparse
import dataclasses
import json
import os
import pathlib
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

RESULTS = pathlib.Path(__file__).parent / "results"


@dataclasses.dataclass(frozen=True)
class Goal:
    """A figure that is to be at least (or, `at_most`, at most) `goal`."""

    name: str
    value: float
    goal: float
    at_most: bool = False

    @property
    def met(self) -> bool:
        return self.value <= self.goal if self.at_most else self.value >= self.goal


def arguments(description: str | None, **flags: str) -> argparse.Namespace:
    """Returns the flags --scale and --images, and further ones by name and help."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", choices=("small", "full"), default="full", help="small: a quick look, as in CI")
    parser.add_argument("--images", type=pathlib.Path, help="folder of images (default: the demo's digits)")
    for name, text in flags.items():
        parser.add_argument(f"--{name}", help=text)
    return parser.parse_args()


def digits(folder: pathlib.Path) -> pathlib.Path:
    """Returns a folder with the demo's 4,500 digits, written on the first call."""
    from pipeline.demo_images import write_digits

    write_digits(folder / "images", folder / "queries")
    return folder / "images"


def median_seconds(work: Callable[[], Any], runs: int = 5) -> float:
    """Returns the median wall time of `runs` calls, after one that doesn't count."""
    work()
    times = []
    for _ in range(runs):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def report(name: str, scale: str, rows: Sequence[dict[str, Any]], goals: Sequence[Goal], **facts: Any) -> None:
    """Prints the rows as a table and the goals, and writes both to results/<name>.json (small: results/small/)."""
    if rows:
        columns = list(dict.fromkeys(column for row in rows for column in row))
        cells = [columns, *([_text(row.get(column, "")) for column in columns] for row in rows)]
        widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
        for line in cells:
            print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    for goal in goals:
        sign = "<=" if goal.at_most else ">="
        print(f"{goal.name}: {_text(goal.value)} ({sign} {_text(goal.goal)}: {'met' if goal.met else 'NOT met'})")
    value = {
        "name": name,
        "scale": scale,
        "machine": {"cores": os.cpu_count(), "processor": _processor(), "python": platform.python_version()},
        "rows": list(rows),
        "goals": [{"name": g.name, "value": g.value, "goal": g.goal, "met": g.met} for g in goals],
        **facts,
    }
    target = (RESULTS if scale == "full" else RESULTS / "small") / f"{name}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    # NumPy's scalars are what medians and comparisons give.
    target.write_text(json.dumps(value, indent=1, default=lambda scalar: scalar.item()) + "\n")
    print(f"written to {target.relative_to(RESULTS.parents[1])}")


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 100 else f"{value:,.0f}"
    return str(value)


def _processor() -> str:
    path = pathlib.Path("/proc/cpuinfo")
    names = [line.split(":", 1)[1].strip() for line in path.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.machine()
