"""The picture of benchmarks/index.py: recall against queries a second, one line for each index."""

import pathlib
from collections.abc import Mapping
from typing import Any

_OURS = "Lookalike"
_LEAST = 0.85


def draw(target: pathlib.Path, curves: Mapping[str, Mapping[str, Any]]) -> None:
    """Writes a PNG. curves: data -> title -> points of recall and rates by one thread."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, every = pyplot.subplots(1, len(curves), figsize=(7 * len(curves), 5), squeeze=False)
    for axes, (data, of) in zip(every[0], curves.items(), strict=True):
        for title, curve in of.items():
            points = _frontier([(point["recall"], point["rate_1"]) for point in curve["points"]])
            if not points:
                continue
            style = {"linewidth": 2.5, "marker": "o"} if title.startswith(_OURS) else {"linewidth": 1, "marker": "."}
            # What is missed, so that 0.99 and 0.999 lie apart; and a place for what misses nothing.
            axes.plot(
                [max(1.0 - recall, 1e-4) for recall, _ in points], [rate for _, rate in points], label=title, **style
            )
        axes.set(xscale="log", yscale="log", xlim=(1.0 - _LEAST, 8e-5), title=data)
        axes.set(xlabel="1 - recall@10", ylabel="queries/s, one thread")
        axes.grid(visible=True, which="both", alpha=0.3)
        axes.legend(fontsize=8)
    figure.tight_layout()
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=110, metadata={"Software": None})
    pyplot.close(figure)


def _frontier(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Returns the points that none beats in both, by recall."""
    best: list[tuple[float, float]] = []
    for recall, rate in sorted(points, reverse=True):
        if not best or rate > best[-1][1]:
            best.append((recall, rate))
    return best[::-1]
