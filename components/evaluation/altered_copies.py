"""Copies of an image that still show the same thing: what a label-free retrieval test asks with."""

import io

import numpy as np
import numpy.typing as npt
from PIL import Image

KINDS = ("shift", "rotation", "noise", "crop", "jpeg")

_SHIFT = 0.04  # of the side, at most
_DEGREES = 10.0  # at most
_NOISE = 0.05  # standard deviation, pixels in [0, 1]
_CROP = 0.93  # of the side that is kept
_QUALITY = 40

Array = npt.NDArray[np.uint8]


def altered_copy(data: bytes, kind: str, *, seed: int, side: int) -> bytes:
    """Returns an altered copy of a canonical image, as PNG or JPEG; the same for the same arguments.

    kind: of KINDS. side: pixels; a longer side is scaled down to it first, so that large images cost no more.
    """
    generator = np.random.default_rng([seed, KINDS.index(kind)])
    image = Image.open(io.BytesIO(data))
    image.draft(image.mode, (side, side))
    if max(image.size) > side:
        image.thumbnail((side, side), Image.Resampling.BILINEAR)
    if kind == "jpeg":
        return _saved(image, "JPEG", quality=_QUALITY)
    pixels = np.asarray(image)
    altered = {"shift": _shifted, "rotation": _rotated, "noise": _noised, "crop": _cropped}[kind](pixels, generator)
    return _saved(Image.fromarray(altered), "PNG", compress_level=1)


def _shifted(pixels: Array, generator: np.random.Generator) -> Array:
    """Moves the image by at least a pixel; what enters repeats the border."""
    height, width = pixels.shape[:2]
    most = (max(1, round(height * _SHIFT)), max(1, round(width * _SHIFT)))
    down, right = (int(generator.choice([-1, 1]) * generator.integers(1, limit + 1)) for limit in most)
    padded = _padded(pixels, *most)
    top, left = most[0] - down, most[1] - right
    return padded[top : top + height, left : left + width]


def _rotated(pixels: Array, generator: np.random.Generator) -> Array:
    """Turns the image about its centre by half of _DEGREES to all of it, either way."""
    height, width = pixels.shape[:2]
    degrees = float(generator.choice([-1, 1]) * generator.uniform(_DEGREES / 2, _DEGREES))
    # What a turn brings in from outside repeats the border.
    rows, columns = max(1, round(height * 0.2)), max(1, round(width * 0.2))
    turned = Image.fromarray(_padded(pixels, rows, columns)).rotate(degrees, Image.Resampling.BILINEAR)
    return np.asarray(turned.crop((columns, rows, columns + width, rows + height)))


def _noised(pixels: Array, generator: np.random.Generator) -> Array:
    noisy = pixels + generator.normal(0.0, 255.0 * _NOISE, pixels.shape)
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)


def _cropped(pixels: Array, generator: np.random.Generator) -> Array:
    """Cuts a window of _CROP of each side; the encoder scales it up again."""
    height, width = pixels.shape[:2]
    rows, columns = max(1, round(height * _CROP)), max(1, round(width * _CROP))
    top, left = int(generator.integers(height - rows + 1)), int(generator.integers(width - columns + 1))
    return pixels[top : top + rows, left : left + columns]


def _padded(pixels: Array, rows: int, columns: int) -> Array:
    return np.pad(pixels, ((rows, rows), (columns, columns)) + ((0, 0),) * (pixels.ndim - 2), mode="edge")


def _saved(image: Image.Image, name: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, name, **options)
    return buffer.getvalue()
