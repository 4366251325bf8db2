import io

import numpy as np
import pytest
from PIL import Image

from components.duplicates.perceptual_hash import distances, hash_pixels, perceptual_hashes


def saved(image: Image.Image, kind: str = "PNG", **options: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def photo(seed: int, side: int = 80) -> Image.Image:
    """Returns smooth colours, as photographs have them."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC)


def hashed(*images: bytes) -> np.ndarray:
    hashes, known = perceptual_hashes(images)
    assert known.all()
    return hashes


def test_bits_are_the_low_frequencies_above_their_median():
    grey = np.random.default_rng(0).normal(128, 40, (3, 32, 32)).astype(np.float32)
    hashes, known = hash_pixels(grey)
    assert known.all()
    x = np.arange(32)
    for image, found in zip(grey.astype(np.float64), hashes.tolist(), strict=True):
        low = np.array(
            [
                [
                    (image * np.outer(np.cos(np.pi * (2 * x + 1) * u / 64), np.cos(np.pi * (2 * x + 1) * v / 64))).sum()
                    for v in range(8)
                ]
                for u in range(8)
            ]
        ).ravel()
        assert [found >> bit & 1 for bit in range(64)] == (low > np.median(low)).astype(int).tolist()


@pytest.mark.parametrize(
    "change",
    [
        lambda image: saved(image, "JPEG", quality=60),
        lambda image: saved(image.resize((57, 57), Image.Resampling.BICUBIC)),
        lambda image: saved(image.point(lambda level: level * 0.85)),
        lambda image: saved(image.convert("L")),
    ],
    ids=["jpeg", "smaller", "darker", "grey"],
)
def test_it_hardly_sees_what_people_hardly_see(change):
    pictures = [photo(seed) for seed in range(20)]
    differing = distances(hashed(*map(saved, pictures)), hashed(*map(change, pictures)))
    assert differing.max() <= 10


def test_pictures_that_differ_have_hashes_that_do():
    hashes = hashed(*(saved(photo(seed)) for seed in range(40)))
    differing = distances(hashes[:, None], hashes[None, :])
    assert differing[~np.eye(40, dtype=bool)].min() > 10
    assert not differing.diagonal().any()


def test_distances():
    first = np.array([0, 0, 2**64 - 1, 5], np.uint64)
    assert distances(first, np.array([0, 2**64 - 1, 0, 4], np.uint64)).tolist() == [0, 64, 64, 1]


def test_what_has_nothing_to_see_has_no_hash():
    flat = saved(Image.new("RGB", (40, 40), (200, 30, 30)))
    hashes, known = perceptual_hashes([flat, saved(photo(0)), b"", b"no image", saved(photo(1))[:200]])
    assert known.tolist() == [False, True, False, False, False]
    assert perceptual_hashes([])[0].shape == (0,)
    assert len(perceptual_hashes([flat] * 2000)[0]) == len(hashes) * 400
