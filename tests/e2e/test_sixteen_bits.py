"""Grey images of 16 bits, as scanners write them, by the recipe of Daoud et al.: ingested, learned, asked for."""

import io
import pathlib

import numpy as np
import pytest
from PIL import Image

from pipeline import config, demonstration
from serving.images import canonicalize
from tests.e2e.lookalike import run

pytestmark = pytest.mark.slow

RECIPE = pathlib.Path(__file__).parents[2] / "configs" / "seeds" / "daoud-2019.yaml"
# So few steps leave the averages of batch normalisation behind.
QUICKLY = ("evaluation.pca_tolerance=1.0", "training.min_steps=400", "encoder.batch_normalisation=false")


def scan(seed: int) -> np.ndarray:
    """Returns a lit field with a spot in it, speckled, uint16 `[48, 60]`, over much of the range of 16 bits."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[-1:1:48j, -1:1:60j]
    field = 0.5 + random.uniform(-0.25, 0.25) * x + random.uniform(-0.25, 0.25) * y
    spot = random.uniform(-0.4, 0.4) * np.exp(-(x**2 + y**2) / random.uniform(0.05, 0.3))
    return np.clip((field + spot + random.normal(0.0, 0.01, x.shape)) * 65_535, 0, 65_535).astype(np.uint16)


def encoded(pixels: np.ndarray, form: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


def test_they_are_served_by_their_high_bits(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for number in range(80):
        form = ("PNG", "TIFF")[number % 2]
        (images / f"{number:02d}.{form.lower()}").write_bytes(encoded(scan(number), form))
    encoder = config.load(str(RECIPE)).encoder
    seed = [f"encoder.{name}={getattr(encoder, name)}" for name in ("family", "height", "width", "fit", "channels")]
    done = run(images, tmp_path, *seed, *QUICKLY)
    assert done.returncode == 0, done.stderr[-5000:]

    with demonstration.service(tmp_path / "serving", tmp_path / "logs") as service:
        for number, form, name in [(4, "TIFF", "04.png"), (7, "PNG", "07.tiff")]:
            pixels = scan(number)
            # In the other format than the one ingested: only the pixels count.
            answer = service.client.search(image=encoded(pixels, form), k=3)
            assert answer.neighbors[0].item.item_id == name
            assert answer.neighbors[0].score == pytest.approx(1.0, abs=1e-5)
            assert answer.neighbors[1].score < 0.9999
            # Neither cut at 255 nor taken as dark: what an image of 8 bits with the same grey values gives.
            eight = np.asarray(service.client.encode(encoded((pixels >> 8).astype(np.uint8), "PNG")).values)
            sixteen = np.asarray(service.client.encode(encoded(pixels, form)).values)
            np.testing.assert_allclose(sixteen, eight, atol=1e-6)
            white = np.asarray(service.client.encode(encoded(np.full_like(pixels, 65_535), form)).values)
            black = np.asarray(service.client.encode(encoded(np.zeros_like(pixels), form)).values)
            assert min(sixteen @ white, sixteen @ black, white @ black) < 0.99
            canonical = Image.open(io.BytesIO(canonicalize(encoded(pixels, form)).data))
            assert canonical.mode == "L"
            np.testing.assert_array_equal(np.asarray(canonical), pixels >> 8)
