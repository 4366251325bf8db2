"""Small pictures for tests, each different, each the same in every run."""

import io
import struct
import zlib

import numpy as np
from PIL import Image


def png(seed: int, side: int = 16) -> bytes:
    """Returns a gray PNG of smooth noise."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4), np.uint8)
    picture = Image.fromarray(coarse).resize((side, side), Image.Resampling.BILINEAR)
    data = io.BytesIO()
    picture.save(data, "PNG")
    return data.getvalue()


def png_header(width: int, height: int) -> bytes:
    """Returns a PNG that claims a size, and holds next to nothing."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + _chunk(b"IDAT", zlib.compress(b"")) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
