"""One small collection, trained on and published once for all tests that only look at the result."""

import pathlib
import shutil
import types

import numpy as np
import pytest

from pipeline.demo_images import write_digits
from tests.e2e.lookalike import run


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> types.SimpleNamespace:
    """300 handwritten digits in class folders, and 20 that are not among them."""
    folder = tmp_path_factory.mktemp("digits")
    write_digits(folder / "all", folder / "queries")
    files = sorted((folder / "all").rglob("*.png"))
    for number in np.random.default_rng(1).permutation(len(files))[:300]:
        target = folder / "images" / files[number].relative_to(folder / "all")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(files[number], target)
    return types.SimpleNamespace(images=folder / "images", queries=sorted((folder / "queries").rglob("*.png"))[::25])


@pytest.fixture(scope="session")
def published(digits: types.SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A root with `pipeline` and `serving`, after a run on the digits with labels."""
    root = tmp_path_factory.mktemp("published")
    done = run(digits.images, root, "ingest.label_from=folder")
    assert done.returncode == 0, done.stderr[-5000:]
    return root
