import numpy as np
import pytest
from sklearn.decomposition import PCA

from components.evaluation import references
from components.pixels import PixelShape, decode_pixels, reduce_pixels
from tests.components.tried_encoders import as_pixels, digits


@pytest.fixture(scope="module")
def images():
    return digits(400)[0]


def test_pca_is_scikit_learns(images):
    pixels = as_pixels(images)
    mine = references.fit_pca(pixels, 12, seed=1)
    flat = pixels.reshape(len(pixels), -1) / 255.0
    theirs = PCA(12, svd_solver="full").fit(flat)
    left = flat - theirs.inverse_transform(theirs.transform(flat))
    assert mine.errors(pixels) == pytest.approx(np.square(left).mean(axis=1), abs=1e-4)
    assert np.abs(mine.embed(pixels)) == pytest.approx(np.abs(theirs.transform(flat)), abs=2e-2)
    assert (mine.dimension, mine.fitted_on) == (12, 400)


def test_pca_is_the_same_every_time_and_fitted_on_a_bounded_part(images, monkeypatch):
    pixels = as_pixels(images)
    assert (references.fit_pca(pixels, 5, seed=3).components == references.fit_pca(pixels, 5, seed=3).components).all()
    monkeypatch.setattr(references, "FIT_BYTES", 100 * 4 * 256)
    assert references.fit_pca(pixels, 5, seed=3).fitted_on == 100


@pytest.mark.parametrize("count", [1, 2, 3])
def test_pca_of_fewer_images_than_dimensions(images, count):
    pixels = as_pixels(images[:count])
    assert references.fit_pca(pixels, 16, seed=0).errors(pixels) == pytest.approx(np.zeros(count), abs=1e-9)


def test_pca_of_identical_images():
    pixels = np.full((5, 4, 4, 1), 7, np.uint8)
    assert references.fit_pca(pixels, 3, seed=0).errors(pixels) == pytest.approx(np.zeros(5), abs=1e-9)


def test_constants_by_hand():
    pixels = np.asarray([[[[0], [255]]], [[[255], [255]]]], np.uint8)
    mean = references.mean_image(pixels)
    assert mean.tolist() == [0.5, 1.0]
    assert references.constant_errors(pixels, np.zeros(2, np.float32)).tolist() == [0.5, 1.0]
    assert references.constant_errors(pixels, mean).tolist() == [0.125, 0.125]
    assert references.picture_errors(pixels, pixels[::-1]).tolist() == [0.5, 0.5]
    assert references.pixel_variance(pixels) == 0.125


def test_raw_pixels_are_of_unit_length_and_reduced():
    pixels = np.random.default_rng(0).integers(0, 256, (3, 64, 32, 3), dtype=np.uint8)
    vectors = references.raw_vectors(pixels)
    assert vectors.shape == (3, 32 * 16 * 3)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(3), abs=1e-5)
    assert reduce_pixels(pixels, 64) is pixels


def test_an_image_of_the_right_size_is_left_alone(images):
    assert (decode_pixels(images[:20], PixelShape(16, 16, 1)) == as_pixels(images[:20])).all()


def test_a_shape_must_make_sense():
    with pytest.raises(ValueError, match="1 or 3 channels"):
        PixelShape(16, 16, 4)
    with pytest.raises(ValueError, match="fit must be one of"):
        PixelShape(16, 16, 1, "crop")


def test_itq_brings_points_nearer_to_the_corners():
    random = np.random.default_rng(3)
    points = random.normal(size=(500, 8)).astype(np.float32) * np.linspace(3, 1, 8, dtype=np.float32)
    turn = references.itq_rotation(points, seed=0)
    np.testing.assert_allclose(turn @ turn.T, np.eye(8), atol=1e-4)

    def lost(turned):
        return np.square(np.where(turned < 0, -1, 1) - turned).sum()

    assert lost(points @ turn) < lost(points)
    codes = references.bits(points, turn)
    assert set(np.unique(np.round(codes * 8**0.5, 5))) == {-1.0, 1.0}
