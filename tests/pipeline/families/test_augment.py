import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from pipeline.encoder_config import AugmentOptions
from pipeline.families.augment import augment, warp

NOTHING = AugmentOptions(**{f.name: False if f.name == "flip" else 0.0 for f in dataclasses.fields(AugmentOptions)})


def images(channels=3):
    return tf.constant(np.random.default_rng(0).random((6, 20, 24, channels), np.float32))


def test_nothing_changes_nothing():
    np.testing.assert_array_equal(augment(images(), NOTHING), images())


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(AugmentOptions)])
def test_each_change_changes_and_stays_an_image(field):
    tf.random.set_seed(1)
    changed = augment(images(), dataclasses.replace(NOTHING, **{field: True if field == "flip" else 0.3})).numpy()
    assert changed.shape == images().shape and changed.dtype == np.float32
    assert changed.min() >= 0.0 and changed.max() <= 1.0
    assert not np.array_equal(changed, images())


def test_every_image_is_changed_on_its_own():
    tf.random.set_seed(2)
    same = tf.repeat(images()[:1], 8, axis=0)
    changed = augment(same, AugmentOptions()).numpy()
    assert all(not np.array_equal(changed[0], other) for other in changed[1:])


def test_a_warp_reads_where_it_is_told():
    picture = tf.constant(np.arange(12, dtype=np.float32).reshape(1, 3, 4, 1))
    y, x = np.mgrid[:3, :4].astype(np.float32)
    np.testing.assert_allclose(warp(picture, y[None], x[None]), picture)
    np.testing.assert_allclose(warp(picture, y[None], x[None] + 0.5)[0, 0, :, 0], [0.5, 1.5, 2.5, 3.0])
    # Outside repeats the border.
    np.testing.assert_allclose(warp(picture, y[None] + 9, x[None])[0, :, 0, 0], [8.0, 8.0, 8.0])


def test_grey_images_have_no_colour_to_lose():
    strong = dataclasses.replace(NOTHING, saturation=1.0, grey=1.0)
    np.testing.assert_array_equal(augment(images(1), strong), images(1))
    spread = np.ptp(augment(images(3), strong).numpy(), axis=-1)
    assert spread.max() < 1e-5


def test_a_crop_shows_a_window_of_the_image():
    tf.random.set_seed(3)
    rows, columns = np.mgrid[:20, :24].astype(np.float32)
    picture = tf.repeat(tf.constant(np.stack([rows, columns], axis=-1)[None] / 23.0), 64, axis=0)
    seen = augment(picture, dataclasses.replace(NOTHING, crop=0.5)).numpy() * 23.0
    top, left = seen[:, 0, 0, 0], seen[:, 0, 0, 1]
    bottom, right = seen[:, -1, -1, 0], seen[:, -1, -1, 1]
    tall, wide = (bottom - top) / 19.0, (right - left) / 23.0
    # As much of either side, at least half of it, and nothing from outside.
    np.testing.assert_allclose(tall, wide, atol=1e-5)
    assert tall.min() >= 0.5 - 1e-5 and tall.max() <= 1.0 + 1e-5
    assert min(top.min(), left.min()) >= 0.0 and bottom.max() <= 19.001 and right.max() <= 23.001
    assert np.ptp(top) > 1.0 and np.ptp(left) > 1.0
