"""From image files to embeddings: made canonical, then encoded in one call, each with its own outcome."""

import dataclasses
import time
from collections.abc import Sequence

import numpy as np

from serving.search import errors
from serving.search.deadline import Deadline
from serving.search.decoding import Decoder
from serving.search.encoder import Embeddings, Encoder
from serving.search.held import Holding
from serving.search.spans import Span, no_span


@dataclasses.dataclass(frozen=True)
class Embedded:
    """outcomes: of each image, its embedding, float32 `[D]` as the encoder gave it, or why there is none.

    decode, encode: seconds.
    """

    outcomes: list[Embeddings | Exception]
    decode: float = 0.0
    encode: float = 0.0


class Embedder:
    """Embeds images with the encoder of a release."""

    def __init__(self, encoder: Encoder, decoder: Decoder, span: Span = no_span) -> None:
        self._encoder = encoder
        self._decoder = decoder
        self._span = span

    async def embed(self, images: Sequence[bytes], holding: Holding, deadline: Deadline) -> Embedded:
        """Returns the outcome of each image file: an embedding, or InvalidQuery or what `Encoder.encode` raises.

        Raises Overloaded and DeadlineExceeded where the images can't even be decoded.
        """
        if not images:
            return Embedded([])
        begun = time.perf_counter()
        canonical = await self.decode(images, deadline)
        decoded = time.perf_counter()
        outcomes: list[Embeddings | Exception] = [c if isinstance(c, Exception) else _NOTHING for c in canonical]
        good = {i: data for i, data in enumerate(canonical) if isinstance(data, bytes)}
        if good:
            with self._span("encode"):
                encoded = await self.encode(list(good.values()), holding, deadline)
            for i, outcome in zip(good, encoded, strict=True):
                outcomes[i] = outcome
        return Embedded(outcomes, decoded - begun, time.perf_counter() - decoded)

    async def decode(self, images: Sequence[bytes], deadline: Deadline) -> list[bytes | Exception]:
        """Returns the canonical image of each file, as Decoder does."""
        with self._span("decode"):
            return await self._decoder.canonical(images, deadline)

    async def encode(
        self, images: Sequence[bytes], holding: Holding, deadline: Deadline
    ) -> Sequence[Embeddings | Exception]:
        """Returns the outcome of each canonical image: an embedding, or what `Encoder.encode` raises."""
        encoder = holding.release.manifest.encoder
        try:
            embeddings = await self._encoder.encode(
                images, model=encoder.model, version=encoder.version, timeout=deadline.left()
            )
        except errors.ImagesRejected as error:
            none = np.zeros((1, 0), np.float32)
            return [
                errors.ImagesRejected({0: error.reasons[i]}, none) if i in error.reasons else error.embeddings[i]
                for i in range(len(images))
            ]
        except errors.RetrievalError as error:
            return [error] * len(images)
        if embeddings.shape[1:] != (encoder.dimension,):
            fault = f"encoder's embedding must have {encoder.dimension} values, got {embeddings.shape[-1]}."
            return [errors.EncoderFault(fault)] * len(images)
        return list(embeddings)


_NOTHING = np.empty(0, np.float32)
