"""Whatever the canonical image lets through decodes in TensorFlow's graph, to the size and channels it claims."""

import io

import numpy as np
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from serving.images import FORMATS, ImageError, ImageLimits, canonicalize

MODES = {
    "JPEG": ("L", "RGB", "CMYK"),
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "WEBP": ("RGB", "RGBA"),
    "GIF": ("L", "P", "RGB", "RGBA"),
    "BMP": ("1", "L", "P", "RGB", "RGBA"),
    "TIFF": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"),
}
LIMITS = ImageLimits(max_side=48)


@st.composite
def files(draw):
    """A file as somebody may bring it: any format, mode and size, many orientations, progressive, transparent."""
    name = draw(st.sampled_from(FORMATS))
    mode = draw(st.sampled_from(MODES[name]))
    width, height = draw(st.integers(1, 80)), draw(st.integers(1, 80))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    if mode == "I;16":
        image = Image.fromarray(rng.integers(0, 2**16, (height, width)).astype(np.uint16))
    else:
        image = Image.fromarray(rng.integers(0, 256, (height, width, 4), np.uint8), "RGBA").convert(mode)
    options = {}
    if name in ("JPEG", "PNG", "WEBP", "TIFF"):
        exif = Image.Exif()
        exif[0x0112] = draw(st.integers(1, 8))
        options["exif"] = exif
    if name == "JPEG":
        options |= {"quality": draw(st.integers(1, 100)), "progressive": draw(st.booleans())}
    if name == "PNG" and mode in ("L", "P", "1"):
        options |= draw(st.sampled_from([{}, {"transparency": 1}]))
    if name == "TIFF" and mode in ("L", "RGB"):
        options |= {"compression": draw(st.sampled_from(["raw", "tiff_lzw", "tiff_adobe_deflate", "jpeg"]))}
    buffer = io.BytesIO()
    image.save(buffer, name, **options)
    return buffer.getvalue()


def assert_decodes(canonical):
    for channels in (0, 1, 3):
        decoded = tf.io.decode_image(canonical.data, channels=channels, expand_animations=False)
        assert decoded.shape == (canonical.height, canonical.width, channels or canonical.channels)


@settings(max_examples=300, deadline=None)
@given(files())
def test_every_image_becomes_one_that_decodes(data):
    canonical = canonicalize(data, LIMITS)
    assert max(canonical.width, canonical.height) <= LIMITS.max_side
    assert canonical.channels in (1, 3)
    assert_decodes(canonical)
    assert canonicalize(canonical.data, LIMITS).data == canonical.data


@settings(max_examples=800, deadline=None)
@given(files(), st.data())
def test_a_damaged_image_is_refused_or_decodes(data, draw):
    damaged = bytearray(data)
    for _ in range(draw.draw(st.integers(1, 4))):
        at = draw.draw(st.integers(0, len(damaged) - 1))
        damaged[at : at + draw.draw(st.integers(0, 4))] = draw.draw(st.binary(max_size=4))
        if not damaged:
            break
    try:
        canonical = canonicalize(bytes(damaged), LIMITS)
    except ImageError:
        return
    assert_decodes(canonical)
