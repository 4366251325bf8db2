"""Pictures of an encoder's evaluation, as PNG."""

import io
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from components.evaluation.gathered_sample import Gathered
from components.evaluation.metrics import neighbors, normalize
from components.evaluation.references import picture_errors
from components.evaluation.spectrum import Spectrum, finite
from components.pixels import Pixels

_PAIRS = 16
_EXAMPLES = 6
_NEIGHBORS = 8


def draw_pictures(sample: Gathered, spectrum: Spectrum) -> dict[str, bytes]:
    """Returns file name -> PNG: what there is of reconstructions, error histogram, retrieval examples and spectrum."""
    pictures = {"retrieval.png": _retrieval(sample), "spectrum.png": _spectrum(spectrum)}
    if sample.pictures is not None:
        pictures["reconstructions.png"] = _reconstructions(sample, sample.pictures)
        pictures["errors.png"] = _errors(sample, sample.pictures)
    return pictures


def _reconstructions(sample: Gathered, drawn: Pixels) -> bytes:
    count = min(_PAIRS, len(drawn))
    columns = min(8, count)
    rows = []
    for start in range(0, count, columns):
        shown = slice(start, min(start + columns, count))
        rows += [list(sample.pixels[shown]), list(drawn[shown])]
    return _mosaic(rows, ["input", "output"] * (len(rows) // 2))


def _errors(sample: Gathered, drawn: Pixels) -> bytes:
    errors = picture_errors(sample.pixels[: sample.asked], drawn)
    figure = Figure(figsize=(6, 2.8), dpi=100)
    axes = figure.add_subplot()
    axes.hist(errors, bins=min(50, max(1, len(errors))), color="#4477aa")
    axes.axvline(float(errors.mean()), color="#222222", linewidth=1)
    axes.set_xlabel("mean squared error of an image (the line is their mean)")
    axes.set_ylabel("images")
    return _png(figure)


def _retrieval(sample: Gathered) -> bytes:
    space = normalize(finite(sample.embeddings["embedding"]))
    asked = min(_EXAMPLES, sample.queries)
    own: npt.NDArray[np.int64] = np.arange(asked, dtype=np.int64)
    found = [rows for _, rows in neighbors(space[:asked], space, depth=_NEIGHBORS, exclude=own)]
    rows = np.concatenate(found) if found else np.empty((asked, 0), np.int64)
    shown = [[query, *rows[query].tolist()] for query in range(asked)]
    scores = [["", *(f"{space[line[0]] @ space[row]:.3f}" for row in line[1:])] for line in shown]
    return _mosaic([[sample.pixels[row] for row in line] for line in shown], ["query"] * asked, scores)


def _spectrum(spectrum: Spectrum) -> bytes:
    figure = Figure(figsize=(6, 2.8), dpi=100)
    axes = figure.add_subplot()
    axes.plot(range(1, len(spectrum.singular_values) + 1), spectrum.singular_values, marker=".", color="#4477aa")
    axes.set_xlabel(f"singular value of the embeddings (effective rank {spectrum.effective_rank:.1f})")
    axes.set_ylabel("share of the sum")
    axes.set_ylim(bottom=0.0)
    return _png(figure)


def _mosaic(rows: list[list[Pixels]], names: list[str], captions: list[list[str]] | None = None) -> bytes:
    """Draws images `[H, W, C]` in rows, each row with a name, each image with a caption below it."""
    height, width, channels = rows[0][0].shape
    # A gap of a tenth, more below where there is something to say.
    down, across = height + max(2, height // (3 if captions else 10)), width + max(2, width // 10)
    columns = max(len(row) for row in rows)
    canvas = np.full((down * len(rows), across * columns, channels), 255, np.uint8)
    figure = Figure(figsize=(columns, columns * canvas.shape[0] / canvas.shape[1]), dpi=100)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    for r, row in enumerate(rows):
        axes.text(-2, r * down + height / 2, names[r], ha="right", va="center", fontsize=8)
        for c, image in enumerate(row):
            canvas[r * down : r * down + height, c * across : c * across + width] = image
            if captions:
                axes.text(c * across + width / 2, r * down + height, captions[r][c], ha="center", va="top", fontsize=7)
    axes.imshow(canvas if channels == 3 else canvas[:, :, 0], cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.set_axis_off()
    return _png(figure)


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", bbox_inches="tight")
    return buffer.getvalue()
