"""Whether an encoder answers alike however it is loaded: by TF 2, by TF Serving's restore path, by a model server."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from components.evaluation.exported_encoder import ExportedEncoder
from components.validation.complete_encoder import WARMUP_SIZES, predict_request
from components.validation.model_server_process import ModelServerProcess

Arrays = dict[str, npt.NDArray[Any]]

# How far two answers of one encoder may lie apart: batches of other sizes, and threads, sum in another order.
COSINE = 0.9999
ABSOLUTE, RELATIVE = 1e-4, 1e-3
GREY_LEVELS = 2  # of 255: rounding turns a small difference into a whole step
BITS = 0.001  # the share of a binary code's bits


class ServingMismatch(RuntimeError):
    """An encoder that answers differently, or not at all, where it is served."""


@dataclasses.dataclass(frozen=True)
class Question:
    """One request. signature: which to ask. argument: the name of its only input. values: string `[N]`."""

    signature: str
    argument: str
    values: tuple[bytes, ...]


def questions(encoder: ExportedEncoder, images: Sequence[bytes], records: Sequence[bytes]) -> list[Question]:
    """Returns requests for every signature. images: canonical. records: serialized tf.Examples."""
    asked = []
    known = {"image_bytes": tuple(images), "examples": tuple(records)}
    for name in sorted(encoder.signatures):
        arguments = encoder.inputs(name)
        values = known.get(arguments[0]) if len(arguments) == 1 else None
        if values is None:
            raise ServingMismatch(
                f"signature {name} takes {arguments}; an encoder's take either image_bytes or examples."
            )
        asked.append(Question(name, arguments[0], values))
        if name == "serving_default":
            many = tuple(images[i % len(images)] for i in range(max(WARMUP_SIZES)))
            asked += [Question(name, arguments[0], values[:1]), Question(name, arguments[0], many)]
    return asked


def answers_in_process(encoder: ExportedEncoder, asked: Sequence[Question]) -> list[Arrays]:
    """Returns the answers of the encoder as TF 2 loads it."""
    return [encoder.ask(q.signature, **{q.argument: q.values}) for q in asked]


def answers_in_session(folder: pathlib.Path, asked: Sequence[Question]) -> list[Arrays]:
    """Returns the answers of a SavedModel as TF Serving's C++ restores it: through a session.

    An export can load by `tf.saved_model.load` and have no variables here; raises ServingMismatch then.
    """
    graph = tf.Graph()
    with graph.as_default(), tf.compat.v1.Session(graph=graph) as session:
        try:
            meta = tf.compat.v1.saved_model.load(session, ["serve"], str(folder))
            found = []
            for q in asked:
                signature = meta.signature_def[q.signature]
                outputs = {name: tensor.name for name, tensor in signature.outputs.items()}
                fed = {signature.inputs[q.argument].name: np.asarray(q.values, object)}
                found.append(session.run(outputs, fed))
            return found
        except (tf.errors.OpError, KeyError, ValueError) as error:
            raise ServingMismatch(
                f"the export can't be run as TF Serving restores it (tf.compat.v1.saved_model.load): {error}"
            ) from error


def answers_served(server: ModelServerProcess, model: str, asked: Sequence[Question]) -> list[Arrays]:
    """Returns the answers of a model server, by gRPC."""
    found = []
    for q in asked:
        response = server.predict(predict_request(model, q.signature, q.argument, q.values))
        found.append({name: tf.make_ndarray(value) for name, value in response.outputs.items()})
    return found


def compare(asked: Sequence[Question], expected: Sequence[Arrays], got: Sequence[Arrays], where: str) -> None:
    """Raises ServingMismatch where an answer differs by more than the tolerances above. where: who gave `got`."""
    for q, left, right in zip(asked, expected, got, strict=True):
        what = f"{q.signature} of {len(q.values)}, {where}"
        if set(left) != set(right):
            raise ServingMismatch(f"{what}: outputs must be {sorted(left)}, got {sorted(right)}.")
        for name, value in left.items():
            other = right[name]
            if (value.shape, value.dtype) != (other.shape, other.dtype):
                pair = f"{value.dtype} {list(value.shape)}, got {other.dtype} {list(other.shape)}"
                raise ServingMismatch(f"{what}: {name} must be {pair}.")
            if fault := _difference(name, value, other):
                raise ServingMismatch(f"{what}: {name} differs from the one in process: {fault}.")


def _difference(name: str, expected: npt.NDArray[Any], got: npt.NDArray[Any]) -> str | None:
    """Returns how two answers differ beyond the tolerance, or None."""
    if not np.isfinite(expected).all() or not np.isfinite(got).all():
        return "not all numbers are finite"
    if name == "embedding":
        lengths = np.linalg.norm(expected, axis=1) * np.linalg.norm(got, axis=1)
        cosine = float(((expected * got).sum(axis=1) / np.where(lengths > 0.0, lengths, 1.0)).min(initial=1.0))
        return None if cosine >= COSINE else f"a cosine of {cosine:.6f} (at least {COSINE})"
    if name == "code":
        share = float(np.unpackbits(expected ^ got).mean())
        return None if share <= BITS else f"{share:.2%} of its bits (at most {BITS:.2%})"
    if expected.dtype == np.uint8:
        most = int(np.abs(expected.astype(np.int16) - got).max(initial=0))
        return None if most <= GREY_LEVELS else f"{most} grey levels (at most {GREY_LEVELS})"
    if np.allclose(expected, got, rtol=RELATIVE, atol=ABSOLUTE):
        return None
    return f"by up to {float(np.abs(expected - got).max()):.2e} (at most {ABSOLUTE} + {RELATIVE} of the value)"
