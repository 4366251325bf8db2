import io

import numpy as np
import pytest
from PIL import Image

from components.evaluation.altered_copies import KINDS, altered_copy
from tests.components.tried_encoders import as_pixels, digits, png


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(16, 16), (40, 30, 3), (1, 1), (3, 200)])
def test_a_copy_is_another_image_of_the_same_kind(kind, shape):
    ramp = np.linspace(0, 255, int(np.prod(shape))).reshape(shape).astype(np.uint8)
    data = png(ramp)
    copy = altered_copy(data, kind, seed=1, side=128)
    image = Image.open(io.BytesIO(copy))
    image.load()
    assert copy != data
    assert image.mode == ("RGB" if len(shape) == 3 else "L")
    if kind != "crop":
        assert image.size == (min(shape[1], 128), max(1, round(shape[0] * min(1, 128 / shape[1]))))


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_is_near_its_original_but_not_equal(kind):
    images, _ = digits(20)
    for number, data in enumerate(images):
        copy = np.asarray(Image.open(io.BytesIO(altered_copy(data, kind, seed=number, side=64))).resize((16, 16)))
        difference = np.square(copy / 255.0 - as_pixels([data])[0, :, :, 0] / 255.0).mean()
        assert 0.0 < difference < 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_depends_on_the_seed_only(kind):
    data = digits(1)[0][0]
    copies = [altered_copy(data, kind, seed=seed, side=64) for seed in (1, 1, 2)]
    assert copies[0] == copies[1]
    if kind != "jpeg":
        assert len({altered_copy(data, kind, seed=seed, side=64) for seed in range(8)}) > 1


def test_a_large_image_is_scaled_down_first():
    data = png(np.zeros((300, 600), np.uint8))
    assert Image.open(io.BytesIO(altered_copy(data, "jpeg", seed=0, side=100))).size == (100, 50)
