"""What an encoder has to be better than: raw pixels, PCA, ITQ's bits, predict-the-mean, all-black.

Mean squared errors are on the scale on which pixels lie in [0, 1], one for each image. In the shapes `N` is the number
of images, `P` of numbers in an image, `K` of dimensions.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from sklearn.decomposition import PCA

from components.evaluation.metrics import Vectors, normalize
from components.pixels import Pixels, reduce_pixels

# Raw pixels are compared at no more than this longest side, in pixels (Torralba, Fergus, Freeman, "80 million tiny
# images", 2008).
RAW_SIDE = 32
FIT_BYTES = 2**28  # of float32 pixels that PCA is fitted on, at most
_ITQ_ITERATIONS = 50  # the paper's
_BLOCK_BYTES = 2**25  # of float32 pixels at a time


@dataclasses.dataclass(frozen=True)
class PcaReference:
    """Principal components of training pixels. mean: float32 `[P]`. components: float32 `[K, P]`, orthonormal rows."""

    mean: npt.NDArray[np.float32]
    components: npt.NDArray[np.float32]
    fitted_on: int

    @property
    def dimension(self) -> int:
        """K."""
        return len(self.components)

    def embed(self, pixels: Pixels) -> Vectors:
        """Returns the coordinates float32 `[N, K]` of images `[N, H, W, C]`, not normalised."""
        blocks = [(block - self.mean) @ self.components.T for block in _flat_blocks(pixels)]
        return np.concatenate([np.empty((0, self.dimension), np.float32), *blocks])

    def errors(self, pixels: Pixels) -> npt.NDArray[np.float64]:
        """Returns the mean squared error `[N]` of images projected on the components and back."""
        errors = []
        for block in _flat_blocks(pixels):
            centered = block - self.mean
            left = centered - (centered @ self.components.T) @ self.components
            errors.append(np.square(left, dtype=np.float64).mean(axis=1))
        return np.concatenate([np.empty(0), *errors])


def fit_pca(pixels: Pixels, dimension: int, *, seed: int) -> PcaReference:
    """Returns PCA of images `[N, H, W, C]`, on as many of them (the first) as fit into FIT_BYTES.

    K is `dimension`, or less where the images or their pixels are fewer. Larger problems use the randomised solver of
    Halko, Martinsson and Tropp, 2011, seeded.
    """
    size = int(np.prod(pixels.shape[1:]))
    count = min(len(pixels), max(1, FIT_BYTES // (4 * size)))
    flat = _flat(pixels[:count])
    mean = flat.mean(axis=0, dtype=np.float64).astype(np.float32)
    if count < 2:
        # One image has no direction to vary in.
        return PcaReference(mean, np.zeros((1, size), np.float32), count)
    kept = min(dimension, count, size)
    pca = PCA(kept, svd_solver="auto", random_state=seed)
    with np.errstate(invalid="ignore"):  # identical images: it divides by their variance, which is 0
        pca.fit(flat)
    return PcaReference(pca.mean_.astype(np.float32), pca.components_.astype(np.float32), count)


def itq_rotation(coordinates: Vectors, *, seed: int) -> Vectors:
    """Returns the orthogonal `[K, K]` that brings PCA's coordinates `[N, K]` near the corners of a cube.

    Gong and Lazebnik, "Iterative Quantization", 2011, section 2.2. In turn: B = sign(V R), then R = S T' of the
    singular value decomposition B' V = T w S', from a random start.
    """
    start = np.random.default_rng(seed).normal(size=(coordinates.shape[1],) * 2)
    turn: Vectors = np.linalg.qr(start)[0].astype(np.float32)
    for _ in range(_ITQ_ITERATIONS):
        left, _, right = np.linalg.svd(_signs(coordinates @ turn).T @ coordinates)
        turn = (left @ right).T
    return turn


def bits(coordinates: Vectors, turn: Vectors) -> Vectors:
    """Returns the codes of coordinates `[N, K]`, -1 and 1, of unit length: float32 `[N, K]`."""
    return normalize(_signs(coordinates @ turn))


def code(embeddings: Vectors) -> Vectors:
    """Returns the codes that embeddings `[N, K]` of a binary family are found by, -1 and 1, of unit length."""
    return normalize(_signs(embeddings))


def raw_vectors(pixels: Pixels) -> Vectors:
    """Returns images as they are, in [0, 1], of unit length: float32 `[N, P]`, reduced to RAW_SIDE where larger."""
    return normalize(_flat(reduce_pixels(pixels, RAW_SIDE)))


def mean_image(pixels: Pixels) -> npt.NDArray[np.float32]:
    """Returns the mean of images `[N, H, W, C]`, pixel by pixel: float32 `[P]` in [0, 1]."""
    total = np.zeros(int(np.prod(pixels.shape[1:])), np.float64)
    for block in _flat_blocks(pixels):
        total += block.sum(axis=0, dtype=np.float64)
    return (total / max(len(pixels), 1)).astype(np.float32)


def constant_errors(pixels: Pixels, constant: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Returns the mean squared error `[N]` of answering `constant` (float32 `[P]`; zeros are all-black) every time."""
    blocks = [np.square(block - constant, dtype=np.float64).mean(axis=1) for block in _flat_blocks(pixels)]
    return np.concatenate([np.empty(0), *blocks])


def picture_errors(pixels: Pixels, pictures: Pixels) -> npt.NDArray[np.float64]:
    """Returns the mean squared error `[N]` between images and their reconstructions, both uint8 `[N, H, W, C]`."""
    pairs = zip(_flat_blocks(pixels), _flat_blocks(pictures), strict=True)
    errors = [np.square(left - right, dtype=np.float64).mean(axis=1) for left, right in pairs]
    return np.concatenate([np.empty(0), *errors])


def pixel_variance(pixels: Pixels) -> float:
    """Returns the variance of a pixel over the images, the mean over all pixels: 0 where all images are the same."""
    return float(constant_errors(pixels, mean_image(pixels)).mean()) if len(pixels) else 0.0


def _signs(turned: Vectors) -> Vectors:
    return np.where(turned < 0.0, np.float32(-1.0), np.float32(1.0))


def _flat(pixels: Pixels) -> npt.NDArray[np.float32]:
    return pixels.reshape(len(pixels), -1).astype(np.float32) / np.float32(255.0)


def _flat_blocks(pixels: Pixels) -> Iterator[npt.NDArray[np.float32]]:
    rows = max(1, _BLOCK_BYTES // (4 * int(np.prod(pixels.shape[1:]))))
    for start in range(0, len(pixels), rows):
        yield _flat(pixels[start : start + rows])
