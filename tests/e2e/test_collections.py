"""Collections as people bring them: broken, tiny, of one picture only. A served release, or an error that helps."""

import io
import json
import pathlib

import numpy as np
import pytest
from PIL import Image

from pipeline import demonstration
from tests.e2e.lookalike import last_run, run

pytestmark = pytest.mark.slow


def picture(seed: int, height: int = 24, width: int = 32, form: str = "PNG", channels: int = 1) -> bytes:
    """A smooth pattern of its own for each seed."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / max(height, width)
    layers = [
        np.sin(random.uniform(2, 9) * x + random.uniform(2, 9) * y + random.uniform(0, 6)) for _ in range(channels)
    ]
    pixels = ((np.stack(layers, -1) + 1) * 127).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0] if channels == 1 else pixels).save(buffer, form)
    return buffer.getvalue()


def write(folder: pathlib.Path, files: dict[str, bytes]) -> pathlib.Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "no"),
        ({"notes.txt": b"no images here"}, "no"),
        ({**{f"{n}.png": picture(n) for n in range(16)}, **{f"b{n}.png": b"broken" for n in range(4)}}, "4 of 20"),
    ],
    ids=["an empty folder", "no images", "a fifth is broken"],
)
def test_what_cannot_work_is_refused_with_what_to_do(tmp_path, files, message):
    images = tmp_path / "images"
    images.mkdir()
    done = run(write(images, files), tmp_path)
    assert done.returncode == 1
    assert message in done.stderr and str(images) in done.stderr
    assert not (tmp_path / "serving" / "CURRENT").exists()


@pytest.mark.parametrize(
    ("files", "count"),
    [
        ({"one.png": picture(0)}, 1),
        ({"one.png": picture(0), "two.png": picture(1)}, 2),
        ({f"{n}.png": picture(0) for n in range(12)}, 12),
    ],
    ids=["one image", "two images", "all identical"],
)
def test_a_tiny_collection_is_served(tmp_path, files, count):
    done = run(write(tmp_path / "images", files), tmp_path)
    assert done.returncode == 0, done.stderr[-5000:]
    with demonstration.service(tmp_path / "serving", tmp_path / "logs") as service:
        answer = service.client.search(image=picture(0), k=10)
        assert len(answer.neighbors) == min(count, 10)
        assert answer.neighbors[0].score == pytest.approx(1.0, abs=1e-5)
        by_id = service.client.search(item_id=answer.neighbors[0].item.item_id, k=10)
        assert len(by_id.neighbors) == min(count - 1, 10)


def test_colour_photographs_of_mixed_sizes_and_a_few_broken_files(tmp_path):
    forms = ["JPEG", "PNG", "WEBP", "BMP", "TIFF"]
    files = {
        f"{n % 7}/{n:03d}.{forms[n % 5].lower()}": picture(n, 40 + n % 31, 50 + n % 17, forms[n % 5], 3)
        for n in range(200)
    }
    files["broken/one.jpeg"] = files["0/000.jpeg"][:200]
    files["broken/two.jpeg"] = b""
    images = write(tmp_path / "images", files)
    done = run(images, tmp_path, "ingest.max_skipped_share=0.02")
    assert done.returncode == 0, done.stderr[-5000:]
    reports = list((tmp_path / "pipeline" / "artifacts").rglob("report.json"))
    text = reports[0].read_text()
    assert "broken/one.jpeg" in text and "broken/two.jpeg" in text
    manifest = tmp_path / "serving" / "releases" / last_run(tmp_path)["release_id"] / "release.json"
    assert json.loads(manifest.read_text())["index"]["count"] == 200
