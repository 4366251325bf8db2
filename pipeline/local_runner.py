"""Runs the training pipeline on this machine: LocalDagRunner, with MLMD in a SQLite file."""

import contextlib
import dataclasses
import json
import logging
import pathlib
import time
from collections.abc import Iterator
from typing import Any

from pipeline.config import PipelineConfig
from pipeline.image_shape import with_image_shape
from serving.storage import open_store

logger = logging.getLogger(__name__)


def run_training(config: PipelineConfig) -> dict[str, Any]:
    """Runs the pipeline to a published release; returns what was done.

    That is `release_id`, `seconds` in all, `components`: seconds of each that was executed, and `cached`: the others.

    Raises what the component that failed raised; a later run goes on from what was finished.
    """
    # Here and not above: importing TFX takes ten seconds, and a wrong option should be told at once.
    from tfx import v1 as tfx

    from pipeline.pipeline import create_training_pipeline

    config = with_image_shape(with_absolute_paths(config))
    root = pathlib.Path(config.root)
    root.mkdir(parents=True, exist_ok=True)
    metadata = tfx.orchestration.metadata.sqlite_metadata_connection_config(str(root / "metadata.sqlite"))
    before = _last_execution(root / "metadata.sqlite")
    began = time.monotonic()
    with watched() as watch:
        tfx.orchestration.LocalDagRunner().run(
            create_training_pipeline(config, metadata=metadata, run=f"{time.time():.6f}")
        )
    executed = _executed(root / "metadata.sqlite", before)
    summary = {
        "release_id": open_store(config.serving_root).read("CURRENT").decode().strip(),
        "seconds": time.monotonic() - began,
        "components": {name: watch.seconds[name] for name in watch.seconds if name in executed},
        "cached": [name for name in watch.seconds if name not in executed],
    }
    # Only of a run that published: a reindex reads the images by it, as they were read for the encoder that is served.
    (root / "config.json").write_text(json.dumps(dataclasses.asdict(config), indent=1, sort_keys=True) + "\n")
    (root / "last_run.json").write_text(json.dumps(summary, indent=1) + "\n")
    return summary


@contextlib.contextmanager
def watched() -> Iterator["ComponentWatch"]:
    """Follows the components that TFX runs within the context."""
    watch = ComponentWatch()
    absl = logging.getLogger("absl")
    absl.setLevel(logging.INFO)
    absl.addFilter(watch)
    # TFT silences absl for a while and gives it another level afterwards: then nobody could follow the rest.
    absl.setLevel = lambda level: None  # type: ignore[method-assign]
    try:
        yield watch
    finally:
        absl.removeFilter(watch)
        del absl.setLevel


def with_absolute_paths(config: PipelineConfig) -> PipelineConfig:
    """Returns `config` with its local paths made absolute."""
    # TFX writes paths into its metadata: they must mean the same from another working folder.
    images = config.ingest.images

    def absolute(path: str) -> str:
        return path if "://" in path or not path else str(pathlib.Path(path).absolute())

    return dataclasses.replace(
        config,
        root=absolute(config.root),
        serving_root=absolute(config.serving_root),
        ingest=dataclasses.replace(config.ingest, images=absolute(images)),
    )


def _store(path: pathlib.Path) -> Any:
    from ml_metadata import metadata_store
    from tfx import v1 as tfx

    return metadata_store.MetadataStore(tfx.orchestration.metadata.sqlite_metadata_connection_config(str(path)))


def _last_execution(path: pathlib.Path) -> int:
    return max((execution.id for execution in _store(path).get_executions()), default=0) if path.exists() else 0


def _executed(path: pathlib.Path, after: int) -> set[str]:
    # Types are named `components.embedder.Embedder` or `tfx.components.trainer.component.Trainer`.
    from ml_metadata.proto import metadata_store_pb2

    cached = metadata_store_pb2.Execution.CACHED
    executions = [e for e in _store(path).get_executions() if e.id > after]
    return {e.type.rpartition(".")[2] for e in executions if e.last_known_state != cached}


class ComponentWatch(logging.Filter):
    """Lets through only TFX's lines that a person follows, and takes the time of each component.

    TFX logs every message of its metadata store at the same level as "Component Trainer is running."
    """

    def __init__(self) -> None:
        super().__init__()
        self.seconds: dict[str, float] = {}
        self._began: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        words = record.getMessage().split()
        if len(words) == 4 and words[0] == "Component" and words[2] == "is":
            name, event = words[1], words[3].rstrip(".")
            if event == "running":
                self._began[name] = time.monotonic()
            elif event == "finished" and name in self._began:
                self.seconds[name] = time.monotonic() - self._began[name]
            return True
        return record.levelno >= logging.ERROR
