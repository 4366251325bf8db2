"""Sees an encoder answer from a model server, and emits it complete, ready to be pushed."""

import itertools
import json
import logging
import os
import pathlib
import tempfile
from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.dsl.io import fileio
from tfx.types.standard_artifacts import Examples, InfraBlessing, Model, ModelBlessing
from tfx.utils import io_utils, path_utils

from components.artifacts import EncoderEvaluation
from components.encoder_evaluator import EVALUATION, NotBlessed
from components.evaluation.exported_encoder import ExportedEncoder
from components.evaluation.sample import sample_split, split_files
from components.validation.complete_encoder import complete, encoder_metrics, warmup_requests
from components.validation.model_server_process import ModelServerProcess
from components.validation.serving_check import (
    ServingMismatch,
    answers_in_process,
    answers_in_session,
    answers_served,
    compare,
    questions,
)
from serving.release.encoder_info import EncoderInfo, Probe

PROBES = 5
MODEL = "encoder"
_VERSION = 1
# The names that TFX's InfraValidator gives these; Pusher looks for the properties.
_BLESSED, _NOT_BLESSED = "INFRA_BLESSED", "INFRA_NOT_BLESSED"

logger = logging.getLogger(__name__)


def validate(
    base_path: pathlib.Path,
    images: Sequence[bytes],
    records: Sequence[bytes],
    evaluation: dict[str, Any],
    *,
    start_seconds: float = 180.0,
) -> pathlib.Path:
    """Completes the export in `base_path`/1 in place, sees it answer everywhere, and returns its folder.

    images: canonical, at least one; they become the probe. records: serialized tf.Examples. evaluation: the content of
    evaluation.json. Raises ServingMismatch or ModelServerError.
    """
    folder = base_path / str(_VERSION)
    encoder = ExportedEncoder(str(folder))
    asked = questions(encoder, images, records)
    expected = answers_in_process(encoder, asked)
    complete(folder, encoder_info(encoder, images, evaluation), warmup := warmup_requests(MODEL, images))
    compare(asked, expected, answers_in_session(folder, asked), "through the session loader")
    with (
        tempfile.TemporaryDirectory() as scratch,
        ModelServerProcess(base_path, MODEL, pathlib.Path(scratch), start_seconds=start_seconds) as server,
    ):
        server.wait_until_available(_VERSION)
        if f"Warmed up with {len(warmup)} requests" not in server.log_text():
            raise server.fault(f"the server did not accept the {len(warmup)} warm-up requests.")
        for request in warmup:
            server.predict(request)
        try:
            compare(asked, expected, answers_served(server, MODEL, asked), "from the model server")
        except ServingMismatch as error:
            raise server.fault(str(error)) from error
    logger.info("The encoder answers %d requests to %d signatures alike.", len(asked), len(encoder.signatures))
    return folder


def encoder_info(encoder: ExportedEncoder, images: Sequence[bytes], evaluation: dict[str, Any]) -> EncoderInfo:
    """Returns what the encoder says of itself. images: the probe. evaluation: the content of evaluation.json."""
    info = encoder.info
    embeddings = encoder.embed(images)
    return EncoderInfo(
        dimension=info.dimension,
        height=info.height,
        width=info.width,
        channels=info.channels,
        family=info.family,
        normalised=info.normalised,
        metrics=encoder_metrics(evaluation),
        data_fingerprint=evaluation["data_fingerprint"],
        probes=tuple(Probe(image, embedding) for image, embedding in zip(images, embeddings, strict=True)),
    )


def probe_images(examples_uri: str, *, count: int = PROBES, seed: int = 20) -> tuple[list[bytes], list[bytes]]:
    """Returns some canonical images and some serialized tf.Examples of the eval split, of train where it is empty."""
    for split in ("eval", "train"):
        files = split_files(examples_uri, split)
        items = itertools.chain.from_iterable(sample_split(files, limit=count, seed=seed).read())
        if images := [item.image for item in sorted(items, key=lambda item: item.key)]:
            records = tf.data.TFRecordDataset(files, "GZIP").take(count)
            return images, list(records.as_numpy_iterator())
    raise ValueError(f"there are no examples in {examples_uri}.")


@component
def ServingValidator(
    model: InputArtifact[Model],
    examples: InputArtifact[Examples],
    blessing: InputArtifact[ModelBlessing],
    evaluation: InputArtifact[EncoderEvaluation],
    infra_blessing: OutputArtifact[InfraBlessing],
    code: Parameter[str],
    start_seconds: Parameter[float] = 180.0,
) -> None:
    """Emits the complete encoder as an InfraBlessing that holds the model: `Pusher(infra_blessing=...)` pushes it.

    blessing, evaluation: of EncoderEvaluator. start_seconds: how long the model server may take to listen, and then to
    load the encoder. code: the fingerprint of our code. Any fault fails the run, and nothing is emitted as blessed.
    """
    if blessing.get_int_custom_property("blessed") != 1:
        raise NotBlessed("the encoder is not blessed by EncoderEvaluator; its report says why.")
    try:
        with tempfile.TemporaryDirectory() as scratch:
            base_path = pathlib.Path(scratch) / MODEL
            io_utils.copy_dir(path_utils.serving_model_path(model.uri), str(base_path / str(_VERSION)))
            folder = validate(base_path, *probe_images(examples.uri), _read(evaluation), start_seconds=start_seconds)
            io_utils.copy_dir(str(folder), path_utils.stamped_model_path(infra_blessing.uri))
    except Exception:
        _mark(infra_blessing, blessed=False)
        raise
    _mark(infra_blessing, blessed=True)


def _read(evaluation: Any) -> dict[str, Any]:
    with fileio.open(os.path.join(evaluation.uri, EVALUATION), "rb") as handle:  # noqa: PTH118 (may be a URL)
        value: dict[str, Any] = json.loads(handle.read())
    return value


def _mark(infra_blessing: Any, *, blessed: bool) -> None:
    name = _BLESSED if blessed else _NOT_BLESSED
    io_utils.write_string_file(os.path.join(infra_blessing.uri, name), "")  # noqa: PTH118 (may be a URL)
    infra_blessing.set_int_custom_property("blessed", int(blessed))
    # Pusher takes the model from the artifact only where this is set.
    infra_blessing.set_int_custom_property("has_model", int(blessed))
