"""One line of config is another family, down to the served release."""

import numpy as np
import pytest

from pipeline import demonstration
from tests.e2e.lookalike import last_run, run

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("family", "evaluated"), [("ours", True), ("itq", False)])
def test_a_family_is_served(digits, tmp_path, family, evaluated):
    options = [f"encoder.family={family}", "evaluation.pca_tolerance=1.0", "training.min_steps=600"]
    done = run(digits.images, tmp_path, *options)
    assert done.returncode == 0, done.stderr[-5000:]
    # TFX's Evaluator judges the reconstruction, of families that have one.
    assert ("Evaluator" in last_run(tmp_path)["components"]) == evaluated
    query = digits.queries[0].read_bytes()
    with demonstration.service(tmp_path / "serving", tmp_path / "logs") as service:
        answer = service.client.search(image=query, k=5)
        embedding = np.asarray(service.client.encode(query).values)
        release = service.client.get_release()
    assert len(answer.neighbors) == 5
    assert np.linalg.norm(embedding) == pytest.approx(1.0, abs=1e-4)
    if family == "itq":
        assert release.index_kind == "hamming"
