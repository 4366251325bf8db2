"""The pipeline builds with one version of ScaNN, and the gateway loads with another."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from serving.index import ExactIndex, load_index
from tests.serving.index.every_kind import EXACT
from tests.serving.release_builder import unit_vectors

OTHER = pathlib.Path(sys.prefix).parent / ("pipeline" if pathlib.Path(sys.prefix).name == "serving" else "serving")
BUILD = """
import json, pathlib, sys, numpy
from serving.index import IndexParameters, build_index
embeddings = numpy.load(sys.argv[1])
for name, parameters in json.loads(sys.argv[3]).items():
    build_index(embeddings, IndexParameters.from_dict(parameters)).save(pathlib.Path(sys.argv[2], name))
"""


@pytest.mark.slow
def test_an_index_of_the_other_environment_loads_in_this_one(tmp_path: pathlib.Path) -> None:
    embeddings = unit_vectors(500, 16)
    np.save(tmp_path / "embeddings.npy", embeddings)
    every = json.dumps({name: parameters.to_dict() for name, parameters in EXACT.items()})
    command = [OTHER / "bin" / "python", "-c", BUILD, tmp_path / "embeddings.npy", tmp_path / "there", every]
    subprocess.run(command, check=True, timeout=120)
    (tmp_path / "there").rename(tmp_path / "here")
    exact = ExactIndex(embeddings).search(embeddings[:20], 10)[0]
    for name in EXACT:
        index = load_index(tmp_path / "here" / name, np.load(tmp_path / "embeddings.npy", mmap_mode="r"))
        np.testing.assert_array_equal(index.search(embeddings[:20], 10)[0], exact)
