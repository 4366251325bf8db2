"""An encoder as it was exported: a SavedModel, asked by its signatures and by nothing else."""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from components.evaluation.metrics import Vectors
from components.pixels import Pixels, PixelShape
from serving.release import layout
from serving.release.encoder_info import EncoderInfo

TRAINING_INFO = "assets.extra/lookalike_training.json"
_BATCH = 256
_BATCH_NUMBERS = 2**22  # pixels times channels that go in at once, at most


class EncoderError(ValueError):
    """A SavedModel that isn't an encoder as DESIGN.md, contract 1, has it."""


@dataclasses.dataclass(frozen=True)
class TrainingInfo:
    """What the trainer wrote beside the SavedModel. history: metric -> one value an epoch. See EncoderInfo."""

    family: str
    dimension: int
    height: int
    width: int
    channels: int
    normalised: bool
    history: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    fit: str = "stretch"

    @property
    def shape(self) -> PixelShape:
        """What the encoder resizes to."""
        return PixelShape(self.height, self.width, self.channels, self.fit)

    @classmethod
    def from_json(cls, data: bytes) -> "TrainingInfo":
        """Returns the information in `data`; raises EncoderError where something is missing."""
        try:
            value = json.loads(data)
            return cls(**{f.name: value[f.name] for f in dataclasses.fields(cls) if f.name in value})
        except (ValueError, TypeError, AttributeError) as error:
            raise EncoderError(f"{TRAINING_INFO} doesn't describe an encoder: {error}") from error


class ExportedEncoder:
    """A loaded SavedModel. signatures: the names of those it has. `N` images, `D` dimensions."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.info = _read_info(path)
        self._model: Any = tf.saved_model.load(path)
        self.signatures = frozenset(self._model.signatures)
        if "serving_default" not in self.signatures:
            raise EncoderError(f"{path} has no signature serving_default, only {sorted(self.signatures)}.")

    def inputs(self, signature: str) -> list[str]:
        """Returns the names of a signature's inputs, sorted."""
        return sorted(self._model.signatures[signature].structured_input_signature[1])

    def ask(self, signature: str, **inputs: Sequence[bytes]) -> dict[str, npt.NDArray[Any]]:
        """Returns a signature's outputs for string tensors `[N]`, whatever they are."""
        strings = {name: tf.constant(list(values), tf.string) for name, values in inputs.items()}
        return {name: value.numpy() for name, value in self._model.signatures[signature](**strings).items()}

    @property
    def reconstructs(self) -> bool:
        """Whether it has a decoder."""
        return "reconstruct" in self.signatures

    def embed(self, images: Sequence[bytes]) -> Vectors:
        """Returns float32 `[N, D]` for canonical images; raises EncoderError where it answers anything else."""
        found: list[Vectors] = [np.empty((0, self.info.dimension), np.float32)]
        for batch in self._batches(images):
            embedding = self.ask("serving_default", image_bytes=batch)["embedding"]
            if embedding.shape != (len(batch), self.info.dimension) or embedding.dtype != np.float32:
                wanted = f"float32 [{len(batch)}, {self.info.dimension}]"
                raise EncoderError(f"embedding must be {wanted}, got {embedding.dtype} {list(embedding.shape)}.")
            found.append(embedding)
        return np.concatenate(found)

    def reconstruct(self, images: Sequence[bytes]) -> tuple[Pixels, Vectors]:
        """Returns (pictures uint8 `[N, H, W, C]`, mean squared errors float32 `[N]` as the encoder reports them)."""
        info = self.info
        pictures: list[Pixels] = [np.empty((0, info.height, info.width, info.channels), np.uint8)]
        errors: list[Vectors] = [np.empty(0, np.float32)]
        for batch in self._batches(images):
            outputs = self.ask("reconstruct", image_bytes=batch)
            picture, error = outputs["image"], outputs["error"]
            wanted = (len(batch), info.height, info.width, info.channels)
            if picture.shape != wanted or picture.dtype != np.uint8 or error.shape != wanted[:1]:
                raise EncoderError(
                    f"reconstruct must give uint8 {list(wanted)} and an error each, "
                    f"got {picture.dtype} {list(picture.shape)} and {list(error.shape)}."
                )
            pictures.append(picture)
            errors.append(error)
        return np.concatenate(pictures), np.concatenate(errors)

    def _batches(self, images: Sequence[bytes]) -> list[list[bytes]]:
        size = max(1, min(_BATCH, _BATCH_NUMBERS // self.info.shape.size))
        return [list(images[start : start + size]) for start in range(0, len(images), size)]


def _read_info(path: str) -> TrainingInfo:
    for name in (TRAINING_INFO, layout.ENCODER_INFO):
        file = f"{path}/{name}"
        if tf.io.gfile.exists(file):
            with tf.io.gfile.GFile(file, "rb") as handle:
                data = handle.read()
            if name == TRAINING_INFO:
                return TrainingInfo.from_json(data)
            known = EncoderInfo.from_json(data)
            return TrainingInfo(
                known.family, known.dimension, known.height, known.width, known.channels, known.normalised
            )
    raise EncoderError(f"{path} has no {TRAINING_INFO}: it isn't an encoder that our Trainer exported.")
