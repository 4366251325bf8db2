"""Pictures of results: queries beside their neighbours, inputs beside their reconstructions, a page with both."""

import base64
import dataclasses
import html
import io
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]


@dataclasses.dataclass(frozen=True)
class Answer:
    """A query and what was found. image: encoded. neighbors: (item id, score, encoded image), best first."""

    title: str
    image: bytes
    neighbors: tuple[tuple[str, float, bytes], ...]


def result_grid(answers: Sequence[Answer], target: pathlib.Path) -> None:
    """Writes a PNG: a row for each query, which stands on the left; neighbours with their scores on the right."""
    columns = max(len(answer.neighbors) for answer in answers) + 1
    figure, axes = _grid(len(answers), columns)
    for row, answer in zip(axes, answers, strict=True):
        _show(row[0], _pixels(answer.image), answer.title, "tab:blue")
        for axis, (item_id, score, image) in zip(row[1:], answer.neighbors, strict=False):
            _show(axis, _pixels(image), f"{_short(item_id)}\n{score:.3f}", None)
    _save(figure, target)


def reconstruction_grid(inputs: Sequence[bytes], outputs: Sequence[Pixels], errors: Any, target: pathlib.Path) -> None:
    """Writes a PNG: encoded inputs above, what the decoder made of them below, with the mean squared error.

    outputs: uint8 `[H, W, C]` each. errors: float `[N]`, pixels in [0, 1].
    """
    figure, axes = _grid(2, len(inputs))
    for column, (data, output, error) in enumerate(zip(inputs, outputs, errors, strict=True)):
        _show(axes[0][column], _pixels(data), "input" if column == 0 else "", None)
        _show(axes[1][column], output, f"MSE {float(error):.4f}", None)
    _save(figure, target)


def page(title: str, facts: Sequence[tuple[str, str]], pictures: Sequence[tuple[str, pathlib.Path]]) -> str:
    """Returns one HTML page that needs no other file: a table of facts, then captioned PNG pictures."""
    rows = "".join(f"<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>" for name, value in facts)
    figures = "".join(
        f'<figure><figcaption>{html.escape(caption)}</figcaption><img alt="{html.escape(caption)}" '
        f'src="data:image/png;base64,{base64.b64encode(picture.read_bytes()).decode()}"></figure>'
        for caption, picture in pictures
    )
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        "<style>body{font:16px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem}"
        "th{text-align:left;padding-right:2rem;font-weight:600}figure{margin:2rem 0}img{max-width:100%}"
        "figcaption{font-weight:600;margin-bottom:.5rem}</style>"
        f"<h1>{html.escape(title)}</h1><table>{rows}</table>{figures}</html>\n"
    )


def _grid(rows: int, columns: int) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.3 * columns, 1.7 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    return figure, axes


def _show(axis: Any, pixels: Pixels, title: str, frame: str | None) -> None:
    axis.imshow(pixels.squeeze(), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axis.set_title(title, fontsize=7)
    if frame:
        axis.axis("on")
        axis.set_xticks([])
        axis.set_yticks([])
        for spine in axis.spines.values():
            spine.set_color(frame)
            spine.set_linewidth(2)


def _save(figure: Any, target: pathlib.Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=110)


def _pixels(data: bytes) -> Pixels:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("L" if image.mode in ("1", "L", "I;16", "I") else "RGB"))


def _short(item_id: str, width: int = 16) -> str:
    return item_id if len(item_id) <= width else "…" + item_id[1 - width :]
