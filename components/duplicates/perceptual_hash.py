"""A 64-bit hash of what an image looks like at a glance; it knows nothing of any encoder.

pHash: the lowest 8 x 8 frequencies of a 32 x 32 grey image, each a bit that says whether it is above their median. The
variant of N. Krawetz ("Looks Like It", 2011) and of the library imagehash, over C. Zauner ("Implementation and
Benchmarking of Perceptual Image Hash Functions", 2010, section 3.2). Two hashes are compared by how many bits differ.
"""

import io
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

BITS = 64
_SIDE = 32
_LOW = 8
# An image of less contrast, a standard deviation in grey levels, has no hash: it would be one of noise, or the same for
# all that are of one colour.
_LEAST_CONTRAST = 2.0
_BATCH = 1024

Hashes = npt.NDArray[np.uint64]


def perceptual_hashes(images: Sequence[bytes]) -> tuple[Hashes, npt.NDArray[np.bool_]]:
    """Returns the hash of each JPEG or PNG, uint64 `[N]`, and whether it has one, bool `[N]`.

    The eight bits of byte r are frequencies of row r, from the lowest vertical frequency on.
    """
    found = [_hash_batch(images[start : start + _BATCH]) for start in range(0, len(images), _BATCH)]
    empty = (np.zeros(0, np.uint64), np.zeros(0, np.bool_))
    hashes, known = zip(*found or [empty], strict=True)
    return np.concatenate(hashes), np.concatenate(known)


def hash_pixels(grey: npt.NDArray[np.float32]) -> tuple[Hashes, npt.NDArray[np.bool_]]:
    """Returns what `perceptual_hashes` does, of grey levels `[N, 32, 32]`."""
    low = _DCT @ grey @ _DCT.T
    low = low.reshape(len(grey), BITS)
    bits = low > np.median(low, axis=1, keepdims=True)
    hashes = np.packbits(bits, axis=1, bitorder="little").view("<u8").reshape(-1).astype(np.uint64)
    return hashes, grey.std(axis=(1, 2)) >= _LEAST_CONTRAST


def distances(first: Hashes, second: Hashes) -> npt.NDArray[np.uint8]:
    """Returns how many bits differ, in [0, 64], of hashes whose shapes broadcast."""
    differing = np.ascontiguousarray(first ^ second)
    shape = differing.shape
    return _ONES[differing.view(np.uint8)].reshape(*shape, 8).sum(axis=-1, dtype=np.uint8)


def _hash_batch(images: Sequence[bytes]) -> tuple[Hashes, npt.NDArray[np.bool_]]:
    grey = np.zeros((len(images), _SIDE, _SIDE), np.float32)
    for place, data in enumerate(images):
        try:
            grey[place] = _grey(data)
        except OSError:
            # Left flat, and so without a hash.
            continue
    return hash_pixels(grey)


def _grey(data: bytes) -> npt.NDArray[np.uint8]:
    with Image.open(io.BytesIO(data)) as image:
        image.draft("L", (_SIDE, _SIDE))
        return np.asarray(image.convert("L").resize((_SIDE, _SIDE), Image.Resampling.LANCZOS))


def _dct_rows() -> npt.NDArray[np.float32]:
    """Returns the first rows of the DCT-II, `[8, 32]`."""
    rows, columns = np.arange(_LOW)[:, None], np.arange(_SIDE)[None, :]
    return np.cos(np.pi * (2 * columns + 1) * rows / (2 * _SIDE)).astype(np.float32)


_DCT = _dct_rows()
_ONES = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(axis=1, dtype=np.uint8)
