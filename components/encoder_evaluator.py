"""The final blessing of an encoder: measured from its export, beside references computed in the same run."""

import dataclasses
import json
import logging
import os
import pathlib
import tempfile
import time
from typing import Any

from tfx.components.evaluator import constants
from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.types.standard_artifacts import Examples, Model, ModelBlessing
from tfx.utils import io_utils, path_utils

from components.artifacts import EncoderEvaluation
from components.evaluation.exported_encoder import ExportedEncoder, TrainingInfo
from components.evaluation.gates import Gate, GateLimits, is_blessed, judge, table
from components.evaluation.gathered_sample import Gathered, SampleLimits, gather
from components.evaluation.measurement import Measurement, measure
from components.evaluation.pictures import draw_pictures
from components.evaluation.report import render_report
from components.evaluation.sample import data_fingerprint, sample_split, split_files
from components.evaluation.served_encoder import served_encoder

EVALUATION = "evaluation.json"
REPORT = "report.html"
FORMAT_VERSION = 1

logger = logging.getLogger(__name__)


class NotBlessed(RuntimeError):
    """The encoder isn't good enough; the message is the table that says why, and what to try."""


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """One encoder, measured and judged. served: what it was compared with, None where nothing is served."""

    info: TrainingInfo
    measured: Measurement
    gates: tuple[Gate, ...]
    sample: Gathered
    served: str | None
    data_fingerprint: str
    seconds: float

    @property
    def blessed(self) -> bool:
        """Whether it may be served."""
        return is_blessed(self.gates)

    def to_json(self) -> bytes:
        """Returns `evaluation.json`: numbers, gates and what was measured on."""
        info = dataclasses.asdict(self.info)
        del info["history"]
        value: dict[str, Any] = {
            "format_version": FORMAT_VERSION,
            "blessed": self.blessed,
            "gates": [dataclasses.asdict(gate) for gate in self.gates],
            "encoder": info,
            "served": self.served,
            "data_fingerprint": self.data_fingerprint,
            "seconds": round(self.seconds, 3),
            **dataclasses.asdict(self.measured),
        }
        return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()


def evaluate(
    saved_model: str, examples_uri: str, *, limits: SampleLimits, gate_limits: GateLimits, serving_root: str = ""
) -> Evaluation:
    """Returns the evaluation of an export (a SavedModel folder) on an Examples artifact with train and eval splits."""
    started = time.monotonic()
    train = sample_split(split_files(examples_uri, "train"), limit=limits.database, seed=limits.seed)
    evaluation = sample_split(split_files(examples_uri, "eval"), limit=limits.queries, seed=limits.seed)
    with served_encoder(serving_root) as served:
        encoders = {"embedding": ExportedEncoder(saved_model)}
        if served is not None and served.encoder is not None:
            encoders["served"] = served.encoder
        sample = gather(encoders, train, evaluation, limits)
        measured = measure(encoders, sample, train, evaluation, seed=limits.seed)
    name, problem = (served.name, served.problem) if served is not None else (None, None)
    info = encoders["embedding"].info
    return Evaluation(
        info=info,
        measured=measured,
        gates=tuple(judge(info, measured, gate_limits, served=name, served_problem=problem)),
        sample=sample,
        served=name,
        data_fingerprint=data_fingerprint([train, evaluation]),
        seconds=time.monotonic() - started,
    )


def write_evaluation(evaluation: Evaluation, folder: pathlib.Path) -> None:
    """Writes evaluation.json, report.html and the pictures into a local folder."""
    pictures = draw_pictures(evaluation.sample, evaluation.measured.spectrum)
    for name, data in pictures.items():
        (folder / name).write_bytes(data)
    page = render_report(evaluation.info, evaluation.measured, evaluation.gates, pictures)
    (folder / REPORT).write_text(page)
    (folder / EVALUATION).write_bytes(evaluation.to_json())


@component
def EncoderEvaluator(
    model: InputArtifact[Model],
    examples: InputArtifact[Examples],
    blessing: OutputArtifact[ModelBlessing],
    evaluation: OutputArtifact[EncoderEvaluation],
    code: Parameter[str],
    model_blessing: InputArtifact[ModelBlessing] = None,
    serving_root: Parameter[str] = "",
    pca_tolerance: Parameter[float] = 0.05,
    served_tolerance: Parameter[float] = 0.02,
    queries: Parameter[int] = 2_000,
    database: Parameter[int] = 10_000,
    seed: Parameter[int] = 20,
) -> None:
    """Blesses an exported encoder, or fails the run with a table that says why.

    model_blessing: of TFX's Evaluator, which must have blessed it first. serving_root: where the served encoder is read
    from, by `CURRENT`; empty compares with none. pca_tolerance, served_tolerance: see GateLimits. queries, database,
    seed: see SampleLimits. code: the fingerprint of our code. A run that fails loses its artifacts, so the report of
    an encoder that isn't blessed is also kept beside the evaluation's folder, under its name with `-not-blessed`.
    """
    if model_blessing is not None and model_blessing.get_int_custom_property("blessed") != 1:
        raise NotBlessed(
            "TFX's Evaluator did not bless the model: its reconstruction error is above evaluation.max_mse, or worse "
            "than the baseline's. Train longer, or raise evaluation.max_mse where the images are hard."
        )
    result = evaluate(
        path_utils.serving_model_path(model.uri),
        examples.uri,
        limits=SampleLimits(queries=queries, database=max(queries, database), seed=seed),
        gate_limits=GateLimits(pca=pca_tolerance, served=served_tolerance),
        serving_root=serving_root,
    )
    kept = evaluation.uri.rstrip("/") + "-not-blessed"
    with tempfile.TemporaryDirectory() as scratch:
        write_evaluation(result, pathlib.Path(scratch))
        for target in (evaluation.uri,) if result.blessed else (evaluation.uri, kept):
            io_utils.copy_dir(scratch, target)
    _mark(blessing, model, result.blessed)
    if not result.blessed:
        raise NotBlessed(f"The encoder is not blessed:\n{table(result.gates)}\nReport: {kept}/{REPORT}")
    logger.info("The encoder is blessed:\n%s", table(result.gates))


def _mark(blessing: Any, model: Any, blessed: bool) -> None:
    """Sets what TFX's Evaluator sets, so that Pusher and resolvers understand it."""
    name = constants.BLESSED_FILE_NAME if blessed else constants.NOT_BLESSED_FILE_NAME
    io_utils.write_string_file(os.path.join(blessing.uri, name), "")  # noqa: PTH118 (may be a URL)
    value = constants.BLESSED_VALUE if blessed else constants.NOT_BLESSED_VALUE
    blessing.set_int_custom_property(constants.ARTIFACT_PROPERTY_BLESSED_KEY, value)
    blessing.set_string_custom_property(constants.ARTIFACT_PROPERTY_CURRENT_MODEL_URI_KEY, model.uri)
    blessing.set_int_custom_property(constants.ARTIFACT_PROPERTY_CURRENT_MODEL_ID_KEY, model.id)
