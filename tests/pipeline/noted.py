"""A pipeline of two small steps, for the tests of what is kept of runs."""

import pathlib

from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.types import standard_artifacts


@component
def Note(text: Parameter[str], note: OutputArtifact[standard_artifacts.Schema]) -> None:
    """Writes a text."""
    pathlib.Path(note.uri).mkdir(parents=True, exist_ok=True)
    pathlib.Path(note.uri, "text").write_text(text)


@component
def Release(
    note: InputArtifact[standard_artifacts.Schema],
    release: OutputArtifact[standard_artifacts.Schema],
    release_id: Parameter[str],
    unchanged: Parameter[int],
) -> None:
    """Says that it published a release, as Publisher does."""
    pathlib.Path(release.uri).mkdir(parents=True, exist_ok=True)
    pathlib.Path(release.uri, "text").write_text(pathlib.Path(note.uri, "text").read_text())
    release.set_string_custom_property("release_id", release_id)
    release.set_int_custom_property("unchanged", unchanged)
