"""The folder of a saved index: its parameters, beside the files of its kind."""

import json
import pathlib

from serving.index.parameters import IndexParameters

PARAMETERS_FILE = "parameters.json"


def parameters_json(parameters: IndexParameters, count: int, dimension: int) -> bytes:
    """Returns the file that says what an index was built with, and the shape of the embeddings."""
    value = {**parameters.to_dict(), "count": count, "dimension": dimension}
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()


def save_parameters(folder: pathlib.Path, parameters: IndexParameters, count: int, dimension: int) -> None:
    """Writes that file into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / PARAMETERS_FILE).write_bytes(parameters_json(parameters, count, dimension))


def read_parameters(folder: pathlib.Path) -> tuple[IndexParameters, tuple[int, int]]:
    """Returns what the index in `folder` was built with, and (count, dimension)."""
    saved = json.loads((folder / PARAMETERS_FILE).read_bytes())
    shape = (saved.pop("count"), saved.pop("dimension"))
    return IndexParameters.from_dict(saved), shape
