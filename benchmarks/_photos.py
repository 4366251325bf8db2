"""Pictures that compress and decode as photographs do, made from a seed."""

import io

import numpy as np
from PIL import Image

_OCTAVES = (4, 8, 16, 32, 64, 128)


def make_photos(count: int, side: int = 256, seed: int = 0) -> list[bytes]:
    """Returns colour JPEGs of `side` x `side` pixels: noise that is weaker the finer it is."""
    generator = np.random.default_rng(seed)
    photos = []
    for _ in range(count):
        pixels = np.full((side, side, 3), 128.0)
        for cells in _OCTAVES:
            noise = generator.normal(0, 160 / cells**0.5, (cells, cells, 3)).clip(-127, 127) + 128
            layer = Image.fromarray(noise.astype(np.uint8)).resize((side, side), Image.Resampling.BICUBIC)
            pixels += np.asarray(layer) - 128.0
        buffer = io.BytesIO()
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
        photos.append(buffer.getvalue())
    return photos
