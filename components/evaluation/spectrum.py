"""How an encoder uses its dimensions."""

import dataclasses

import numpy as np

from components.evaluation.metrics import Vectors


@dataclasses.dataclass(frozen=True)
class Spectrum:
    """How an encoder uses its dimensions, from embeddings `[N, D]` less their mean.

    singular_values: float64, descending, as shares of their sum. effective_rank: exp of their entropy, in [1, D] (Roy
    and Vetterli, "The effective rank", 2007); 0 where nothing varies. spread: mean squared distance from the mean, for
    unit vectors in [0, 1]. dead_share: of dimensions that vary by less than a hundredth of the average variance.
    farthest: the largest difference of any number from the first embedding's.
    """

    singular_values: tuple[float, ...]
    effective_rank: float
    spread: float
    dead_share: float
    farthest: float
    is_finite: bool
    norm_error: float


def spectrum(embeddings: Vectors) -> Spectrum:
    """Returns how embeddings float32 `[N, D]` use their dimensions; N at least 1."""
    is_finite = bool(np.isfinite(embeddings).all())
    wide = finite(embeddings).astype(np.float64)
    centered = wide - wide.mean(axis=0)
    # Eigenvalues of the smaller Gram matrix: cheaper than the singular values themselves.
    gram = centered.T @ centered if len(centered) >= centered.shape[1] else centered @ centered.T
    values = np.sqrt(np.maximum(np.linalg.eigvalsh(gram)[::-1], 0.0))
    shares = values / values.sum() if values.sum() > 1e-9 else np.zeros_like(values)
    positive = shares[shares > 0.0]
    variances = centered.var(axis=0)
    return Spectrum(
        singular_values=tuple(float(share) for share in shares),
        effective_rank=float(np.exp(-(positive * np.log(positive)).sum())) if len(positive) else 0.0,
        spread=float(np.square(centered).sum(axis=1).mean()),
        dead_share=float((variances < 0.01 * variances.mean()).mean()) if variances.mean() > 0.0 else 1.0,
        farthest=float(np.abs(wide - wide[0]).max()),
        is_finite=is_finite,
        norm_error=float(np.abs(np.linalg.norm(wide, axis=1) - 1.0).max()),
    )


def finite(vectors: Vectors) -> Vectors:
    """Returns the vectors with zeros for what is no number: one gate fails for it, the others can still be judged."""
    return np.nan_to_num(vectors, nan=0.0, posinf=0.0, neginf=0.0)
