"""The port to the encoder: what turns canonical images into embeddings. No gRPC, so that the core can import it."""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

Embeddings = npt.NDArray[np.float32]


class Encoder(Protocol):
    """What turns canonical images into embeddings."""

    async def encode(self, images: Sequence[bytes], *, model: str, version: int, timeout: float) -> Embeddings:
        """Returns float32 `[N, D]`, finite, by exactly this version of `model`. timeout: seconds, for everything.

        Raises ImagesRejected where it can't read some of them, EncoderUnavailable, EncoderFault, Overloaded,
        DeadlineExceeded.
        """

    async def available(self, *, model: str, version: int, timeout: float) -> bool:
        """Returns whether this version is loaded and answering; False also where the encoder can't be reached."""


@dataclasses.dataclass(frozen=True)
class Reconstruction:
    """What an autoencoder makes of images. images: uint8 `[N, H, W, C]`. errors: float32 `[N]`, mean squared."""

    images: npt.NDArray[np.uint8]
    errors: npt.NDArray[np.float32]
