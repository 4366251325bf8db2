"""Models that the model server's tests share."""

import pytest

from tests.conformance import models


@pytest.fixture(scope="session")
def version_folder(tmp_path_factory):
    """A SavedModel as the conformance suite has them."""
    folder = tmp_path_factory.mktemp("model") / "1"
    models.write_model(folder, 1)
    return folder
