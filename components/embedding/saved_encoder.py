"""An encoder's SavedModel, loaded once per process, embedding batches of canonical images."""

import dataclasses
import logging
import time

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from apache_beam.utils.shared import Shared

from components.artifact_files import fetched_folder

_log = logging.getLogger(__name__)
_NORM_TOLERANCE = 1e-3


class EncoderFault(RuntimeError):
    """The encoder breaks its contract for every image: not a matter of one bad image."""


@dataclasses.dataclass(frozen=True)
class Embedded:
    """What a batch of B images became. vectors: float32 `[B, D]` of unit length; rows in `failures` are zero.

    failures: row -> reason, for each image that the encoder refused.
    """

    vectors: npt.NDArray[np.float32]
    failures: dict[int, str]


class SavedEncoder:
    """The `serving_default` signature of a complete encoder: canonical images in, embeddings `[N, D]` out."""

    def __init__(self, uri: str, dimension: int) -> None:
        started = time.monotonic()
        with fetched_folder(uri) as folder:
            # Kept alive: a signature does not hold its model's variables.
            self._model = tf.saved_model.load(str(folder))
        self._signature = self._model.signatures["serving_default"]
        self._dimension = dimension
        _log.info("loaded the encoder %s in %.2f s", uri, time.monotonic() - started)

    def embed(self, images: tf.Tensor) -> Embedded:
        """Returns the embeddings of `images`, string `[B]`. A batch that fails is retried one image at a time."""
        try:
            vectors = self._call(images)
        except tf.errors.OpError as error:
            _log.warning("a batch of %d images failed; trying one by one: %s", len(images), _first_line(error))
            return self._embed_singly(images)
        return Embedded(vectors, _refused(vectors))

    def _embed_singly(self, images: tf.Tensor) -> Embedded:
        vectors = np.zeros((len(images), self._dimension), np.float32)
        failures = {}
        for row in range(len(images)):
            try:
                vectors[row] = self._call(images[row : row + 1])[0]
            except tf.errors.OpError as error:
                failures[row] = _first_line(error)
        return Embedded(vectors, _refused(vectors) | failures)

    def _call(self, images: tf.Tensor) -> npt.NDArray[np.float32]:
        vectors = self._signature(image_bytes=images)["embedding"].numpy()
        if vectors.shape != (len(images), self._dimension):
            expected = (len(images), self._dimension)
            raise EncoderFault(f"the encoder must return embeddings of shape {expected}, got {vectors.shape}.")
        return vectors


def limit_threads(threads: int) -> None:
    """Lets TensorFlow use so many threads in this process, 0 for as many as it likes. Not once it has begun."""
    if not threads:
        return
    try:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
    except RuntimeError:
        _log.warning("TensorFlow has begun with other threads than %d: worker processes of their own limit it", threads)


def acquire_encoder(shared: Shared, uri: str, dimension: int, digest: str) -> SavedEncoder:
    """Returns the encoder at `uri`, loaded by the first caller in this process that holds `shared`."""
    return shared.acquire(lambda: SavedEncoder(uri, dimension), tag=digest)


def _refused(vectors: npt.NDArray[np.float32]) -> dict[int, str]:
    norms = np.linalg.norm(vectors, axis=1)
    # Written so that NaN is refused too.
    bad = np.flatnonzero(~(np.abs(norms - 1) <= _NORM_TOLERANCE))
    return {int(row): f"the embedding must have unit length, got {norms[row]:.6g}" for row in bad}


def _first_line(error: tf.errors.OpError) -> str:
    return (str(error.message).strip().splitlines() or [type(error).__name__])[0][:300]
