"""The picture of an index evaluation: recall, latency, and what the parameters were chosen from."""

import pathlib
from collections import defaultdict
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from serving.index import Choice, IndexParameters


def plot_evaluation(
    path: pathlib.Path,
    evaluation: dict[str, Any],
    recalls: dict[int, npt.NDArray[np.float64]],
    seconds: npt.NDArray[np.float64],
) -> None:
    """Writes a PNG to `path`. recalls: k -> of each query `[Q]`, in [0, 1]. seconds: of each query `[Q]`."""
    # No pyplot: it keeps state, and asks for a display.
    searched = evaluation["tuning"]["method"] != "rule"
    figure = Figure(figsize=(14 if searched else 9, 3.5), layout="constrained")
    FigureCanvasAgg(figure)
    left, right, *third = figure.subplots(1, 3 if searched else 2)
    means = [float(values.mean()) for values in recalls.values()]
    bars = left.bar([f"recall@{k}" for k in recalls], means, color="tab:blue")
    left.bar_label(bars, labels=[f"{mean:.4f}" for mean in means], padding=2)
    left.axhline(evaluation["gate"]["min_recall"], color="tab:red", linestyle="--", label="gate (recall@10)")
    left.set_ylim(0, 1.12)
    left.legend(loc="lower right")
    left.set_title(f"{evaluation['kind']}: {evaluation['count']} items, {evaluation['queries']} queries")
    milliseconds = np.sort(seconds) * 1000
    right.plot(milliseconds, np.linspace(0, 1, len(milliseconds)), drawstyle="steps-post")
    for name, value in evaluation["latency_seconds"].items():
        right.axvline(value * 1000, color="tab:gray", linestyle=":")
        right.annotate(f" {name} {value * 1000:.3g} ms", (value * 1000, 0.05), rotation=90, va="bottom", fontsize=8)
    right.set_xscale("log")
    right.set_xlabel("milliseconds per query")
    right.set_ylabel("share of the queries")
    right.set_title(f"{evaluation['queries_per_second']:.0f} queries per second in a batch")
    for axes in third:
        _plot_choice(axes, evaluation["tuning"])
    with matplotlib.rc_context({"savefig.dpi": 120}):
        figure.savefig(path, format="png")


def describe_scoring(parameters: IndexParameters) -> str:
    """Returns how an index scores, in a few words."""
    if parameters.kind != "tree":
        return parameters.kind
    hashing = f"hashing by {parameters.hash_dimensions}" + (", re-rank by file" if parameters.rerank == "file" else "")
    scoring = "brute force in the leaves" if parameters.scoring == "exact" else hashing
    return scoring + (", SOAR" if parameters.spill else "")


def _plot_choice(axes: Axes, tuning: dict[str, Any]) -> None:
    calibration = Choice.from_dict(tuning["calibration"])
    curves = defaultdict(list)
    for point in Choice.from_dict(tuning["search"]).frontier if tuning["search"] else ():
        curves[describe_scoring(point.parameters)].append((point.recall, point.queries_per_second))
    for name, curve in sorted(curves.items()):
        axes.plot(*zip(*curve, strict=True), "o", markersize=3, label=f"{name} (sample)")
    curve = [(point.recall, point.queries_per_second) for point in calibration.frontier]
    axes.plot(*zip(*curve, strict=True), color="black", linewidth=1, label=describe_scoring(calibration.parameters))
    chosen = calibration.point
    axes.plot(chosen.recall, chosen.queries_per_second, "*", color="tab:red", markersize=12, label="chosen")
    axes.axvline(calibration.target, color="tab:gray", linestyle="--")
    axes.set_yscale("log")
    axes.set_xlim(left=max(0.0, min(0.8, chosen.recall - 0.05)), right=1.005)
    axes.set_xlabel("recall@10")
    axes.set_ylabel("queries per second, one thread")
    axes.legend(fontsize=7, loc="lower left")
    axes.set_title(f"{chosen.queries_per_second:.0f} queries per second at {chosen.recall:.4f}")
