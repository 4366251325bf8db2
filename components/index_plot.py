"""The picture of an index evaluation: recall on the left, latency on the right."""

import pathlib
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


def plot_evaluation(
    path: pathlib.Path,
    evaluation: dict[str, Any],
    recalls: dict[int, npt.NDArray[np.float64]],
    seconds: npt.NDArray[np.float64],
) -> None:
    """Writes a PNG to `path`. recalls: k -> of each query `[Q]`, in [0, 1]. seconds: of each query `[Q]`."""
    # No pyplot: it keeps state, and asks for a display.
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
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
    with matplotlib.rc_context({"savefig.dpi": 120}):
        figure.savefig(path, format="png")
