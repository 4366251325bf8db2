import dataclasses
import zipfile

import numpy as np
from PIL import Image

from pipeline.config import PipelineConfig
from pipeline.image_shape import with_image_shape


def shape_found(images, **encoder):
    config = PipelineConfig()
    config = dataclasses.replace(
        config,
        ingest=dataclasses.replace(config.ingest, images=str(images)),
        encoder=dataclasses.replace(config.encoder, **encoder),
    )
    found = with_image_shape(config).encoder
    return found.height, found.width, found.channels


def write(folder, name, height, width, channels=1):
    shape = (height, width) if channels == 1 else (height, width, channels)
    folder.mkdir(exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, shape, np.uint8)).save(folder / name)


def test_images_of_one_small_size_keep_it(tmp_path):
    write(tmp_path, "a.png", 28, 30)
    write(tmp_path, "b.png", 28, 30)
    assert shape_found(tmp_path) == (28, 30, 1)


def test_large_images_are_shrunk_with_their_aspect_ratio(tmp_path):
    write(tmp_path, "a.png", 300, 600, 3)
    assert shape_found(tmp_path) == (32, 64, 3)


def test_one_colour_image_makes_it_colour_and_the_median_decides_the_size(tmp_path):
    for number, (height, width, channels) in enumerate([(20, 40, 1), (22, 44, 3), (60, 60, 1)]):
        write(tmp_path, f"{number}.png", height, width, channels)
    assert shape_found(tmp_path) == (22, 44, 3)


def test_tiny_images_are_enlarged_to_what_the_network_can_halve(tmp_path):
    write(tmp_path, "a.png", 3, 4)
    assert shape_found(tmp_path) == (16, 16, 1)


def test_what_is_configured_stays(tmp_path):
    write(tmp_path, "a.png", 28, 28)
    assert shape_found(tmp_path, height=32, channels=3) == (32, 28, 3)


def test_broken_files_and_archives(tmp_path):
    write(tmp_path / "in", "a.png", 28, 24)
    (tmp_path / "in" / "b.png").write_bytes(b"no image")
    assert shape_found(tmp_path / "in") == (28, 24, 1)
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.write(tmp_path / "in" / "a.png", "a.png")
        archive.write(tmp_path / "in" / "b.png", "b.png")
    assert shape_found(tmp_path / "all.zip") == (28, 24, 1)


def test_no_image_at_all_is_left_to_ingest(tmp_path):
    (tmp_path / "empty").mkdir()
    assert shape_found(tmp_path / "empty") == (16, 16, 1)
