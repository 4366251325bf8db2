"""Pictures of an encoder's evaluation, as PNG."""

import io
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from components.gathered_sample import Gathered
from components.metrics import neighbors, normalize
from components.pixels import Pixels
from components.references import picture_errors
from components.spectrum import Spectrum, finite

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
    bands = -(-count // columns)
    figure = Figure(figsize=(columns, 2 * bands + 0.4), dpi=100)
    for number in range(count):
        band, column = divmod(number, columns)
        for offset, image in ((0, sample.pixels[number]), (1, drawn[number])):
            axes = figure.add_subplot(2 * bands, columns, (2 * band + offset) * columns + column + 1)
            _show(axes, image)
            if column == 0:
                axes.set_ylabel(("input", "output")[offset], fontsize=7)
    return _png(figure)


def _errors(sample: Gathered, drawn: Pixels) -> bytes:
    errors = picture_errors(sample.pixels[: sample.queries], drawn)
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
    columns = 1 + rows.shape[1]
    figure = Figure(figsize=(max(columns, 2), 1.2 * asked), dpi=100)
    for query in range(asked):
        for column, row in enumerate([query, *rows[query].tolist()]):
            axes = figure.add_subplot(asked, columns, query * columns + column + 1)
            _show(axes, sample.pixels[row])
            axes.set_title("query" if column == 0 else f"{space[query] @ space[row]:.3f}", fontsize=7)
    return _png(figure)


def _spectrum(spectrum: Spectrum) -> bytes:
    figure = Figure(figsize=(6, 2.8), dpi=100)
    axes = figure.add_subplot()
    axes.plot(range(1, len(spectrum.singular_values) + 1), spectrum.singular_values, marker=".", color="#4477aa")
    axes.set_xlabel(f"singular value of the embeddings (effective rank {spectrum.effective_rank:.1f})")
    axes.set_ylabel("share of the sum")
    axes.set_ylim(bottom=0.0)
    return _png(figure)


def _show(axes: Any, image: Pixels) -> None:
    axes.imshow(image if image.shape[2] == 3 else image[:, :, 0], cmap="gray", vmin=0, vmax=255)
    axes.set_xticks([])
    axes.set_yticks([])


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", bbox_inches="tight")
    return buffer.getvalue()
