import numpy as np
import pytest
from PIL import Image

from pipeline import demo_images


def test_the_digits_are_written_once_and_split(tmp_path):
    images, queries = tmp_path / "images", tmp_path / "queries"
    demo_images.write_digits(images, queries)
    inside, held_out = sorted(images.rglob("*.png")), sorted(queries.rglob("*.png"))
    assert (len(inside), len(held_out)) == (4500, 500)
    assert not {path.name for path in inside} & {path.name for path in held_out}
    assert sorted(folder.name for folder in images.iterdir()) == [str(digit) for digit in range(10)]
    with Image.open(inside[0]) as image:
        assert (image.mode, image.size) == ("L", (28, 28))
        assert np.asarray(image).max() > 200
    before = inside[0].stat().st_mtime_ns
    demo_images.write_digits(images, queries)
    assert inside[0].stat().st_mtime_ns == before


def test_other_data_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(demo_images, "_packed", lambda: b"other")
    with pytest.raises(ValueError, match="must have the sha256"):
        demo_images.write_digits(tmp_path / "i", tmp_path / "q")
