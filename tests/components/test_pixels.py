import io

import numpy as np
from PIL import Image

from components.pixels import PixelShape
from components.pixels import decode as decode_in_graph


def encoded(array, form="PNG"):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, form)
    return buffer.getvalue()


def decode(images, **shape):
    return decode_in_graph(images, PixelShape(**shape))


def test_an_image_of_the_right_size_is_left_alone():
    pixels = np.random.default_rng(0).integers(0, 256, (20, 24), np.uint8)
    out = decode([encoded(pixels)], height=20, width=24, channels=1, fit="stretch").numpy()
    np.testing.assert_array_equal(out[0, :, :, 0], pixels)


def test_grey_becomes_colour_and_colour_grey():
    grey = np.full((16, 16), 100, np.uint8)
    colour = np.zeros((16, 16, 3), np.uint8) + np.array([200, 100, 50], np.uint8)
    as_colour = decode([encoded(grey), encoded(colour, "JPEG")], height=16, width=16, channels=3, fit="stretch").numpy()
    assert (as_colour[0] == 100).all()
    np.testing.assert_allclose(as_colour[1].mean((0, 1)), [200, 100, 50], atol=3)
    as_grey = decode([encoded(colour)], height=16, width=16, channels=1, fit="stretch").numpy()
    np.testing.assert_allclose(as_grey.mean(), 0.299 * 200 + 0.587 * 100 + 0.114 * 50, atol=2)


def test_padding_keeps_the_aspect_ratio_and_stretching_does_not():
    wide = np.full((16, 64), 255, np.uint8)
    padded = decode([encoded(wide)], height=32, width=32, channels=1, fit="pad").numpy()[0, :, :, 0]
    assert (padded[12:20] == 255).all() and (padded[:12] == 0).all() and (padded[20:] == 0).all()
    assert (decode([encoded(wide)], height=32, width=32, channels=1, fit="stretch").numpy() == 255).all()


def test_a_batch_of_different_sizes_and_none_at_all():
    images = [encoded(np.zeros((h, w), np.uint8)) for h, w in ((3, 5), (40, 7), (16, 16))]
    assert decode(images, height=16, width=16, channels=1, fit="stretch").shape == (3, 16, 16, 1)
    assert decode(np.array([], object), height=16, width=16, channels=1, fit="stretch").shape == (0, 16, 16, 1)
