"""Measures an exported encoder beside its references, on one seeded sample of the examples."""

import dataclasses

import numpy as np
import numpy.typing as npt

from components.evaluation import metrics, references
from components.evaluation.altered_copies import KINDS, altered_copy
from components.evaluation.exported_encoder import ExportedEncoder
from components.evaluation.gathered_sample import Gathered
from components.evaluation.metrics import LabelScores, Rows, Vectors
from components.evaluation.sample import SplitSample
from components.evaluation.spectrum import Spectrum, finite, spectrum
from components.pixels import Pixels, PixelShape, decode_pixels
from serving.release.distribution import Distribution
from serving.release.encoder_info import BINARY_FAMILIES

# Beside what their bits find stands what ITQ of as many finds.
BINARY = BINARY_FAMILIES

_COPY_BLOCK = 256


@dataclasses.dataclass(frozen=True)
class Reconstruction:
    """Mean squared errors over the images asked, pixels in [0, 1]; encoder's are None where it has no decoder.

    reported: what the encoder says. shown: what its pictures say. variation: variance of its pictures' pixels over the
    images, 0 where it draws one picture for all. errors: how what the encoder says is distributed over the images.
    """

    reported: float | None
    shown: float | None
    variation: float | None
    black: float
    mean: float
    pca: float
    pca_dimension: int
    pca_fitted_on: int
    errors: Distribution | None = None


@dataclasses.dataclass(frozen=True)
class Measurement:
    """Everything the gates judge. asked: images reconstructed; more than queries where those are few, see SampleLimits.

    recall: representation -> kind of copy -> recall@1; labelled: -> score -> mean; labelled_intervals: -> score -> 95%
    confidence interval. Representations: embedding, pca, pixels; for a family of bits its code, and itq; served, where
    something is.
    served_mse: the served encoder's error, where it draws at the same size from as many dimensions.
    """

    queries: int
    asked: int
    database: int
    copies: int
    records: int
    contents: int
    eval_reuses_train: bool
    pixel_variance: float
    spectrum: Spectrum
    reference_rank: float
    reconstruction: Reconstruction
    recall: dict[str, dict[str, float]]
    labelled: dict[str, dict[str, float]]
    labelled_queries: int
    served_mse: float | None
    labelled_intervals: dict[str, dict[str, tuple[float, float]]] = dataclasses.field(default_factory=dict)


def measure(
    encoders: dict[str, ExportedEncoder],
    sample: Gathered,
    train: SplitSample,
    evaluation: SplitSample,
    *,
    seed: int,
) -> Measurement:
    """Returns every number about the gathered sample; see Measurement."""
    learned = sample.pixels[sample.queries :] if len(sample.pixels) > sample.queries else sample.pixels
    trial = encoders["embedding"]
    pca = references.fit_pca(learned, trial.info.dimension, seed=seed)
    turn = references.itq_rotation(pca.embed(learned), seed=seed) if trial.info.family in BINARY else None
    spaces = {name: metrics.normalize(finite(vectors)) for name, vectors in sample.embeddings.items()}
    spaces["pca"] = metrics.normalize(pca.embed(sample.pixels))
    spaces["pixels"] = references.raw_vectors(sample.pixels)
    if turn is not None:
        spaces["itq"] = references.bits(pca.embed(sample.pixels), turn)
        spaces["code"] = references.code(spaces["embedding"])
    scores = _labelled(spaces, sample)
    served = encoders.get("served")
    comparable = "served" in sample.errors and served is not None and _drawing(served) == _drawing(trial)
    return Measurement(
        queries=sample.queries,
        asked=sample.asked,
        database=len(sample.pixels),
        copies=len(sample.images),
        records=train.records + evaluation.records,
        contents=len(set(train.chosen) | set(evaluation.chosen)),
        eval_reuses_train=evaluation.records == 0,
        pixel_variance=references.pixel_variance(sample.pixels),
        spectrum=spectrum(sample.embeddings["embedding"]),
        reference_rank=spectrum(spaces["pca"]).effective_rank,
        reconstruction=_reconstruction(sample, learned, pca),
        recall=_recall(encoders, spaces, sample, pca, turn, seed),
        labelled={name: score.means() for name, score in scores.items()},
        labelled_queries=len(scores["embedding"].queries) if scores else 0,
        labelled_intervals={name: score.intervals(seed=seed) for name, score in scores.items()},
        served_mse=float(sample.errors["served"].mean(dtype=np.float64)) if comparable else None,
    )


def _drawing(encoder: ExportedEncoder) -> tuple[PixelShape, int]:
    return encoder.info.shape, encoder.info.dimension


def _reconstruction(sample: Gathered, learned: Pixels, pca: references.PcaReference) -> Reconstruction:
    asked = sample.pixels[: sample.asked]
    pictures, errors = sample.pictures, sample.errors.get("embedding")
    mean = references.mean_image(learned)
    return Reconstruction(
        reported=None if errors is None else float(errors.mean(dtype=np.float64)),
        shown=None if pictures is None else float(references.picture_errors(asked, pictures).mean()),
        variation=None if pictures is None else references.pixel_variance(pictures),
        black=float(references.constant_errors(asked, np.zeros_like(mean)).mean()),
        mean=float(references.constant_errors(asked, mean).mean()),
        pca=float(pca.errors(asked).mean()),
        pca_dimension=pca.dimension,
        pca_fitted_on=pca.fitted_on,
        errors=None if errors is None else Distribution.of(errors.tolist()),
    )


def _recall(
    encoders: dict[str, ExportedEncoder],
    spaces: dict[str, Vectors],
    sample: Gathered,
    pca: references.PcaReference,
    turn: Vectors | None,
    seed: int,
) -> dict[str, dict[str, float]]:
    """Returns recall@1 of the original for altered copies: representation -> kind -> value."""
    shape = encoders["embedding"].info.shape
    side = 2 * max(shape.height, shape.width)
    recall: dict[str, dict[str, float]] = {name: {} for name in spaces}
    for kind in KINDS:
        hits: dict[str, list[npt.NDArray[np.float64]]] = {name: [] for name in spaces}
        for start in range(0, len(sample.images), _COPY_BLOCK):
            originals = sample.images[start : start + _COPY_BLOCK]
            copies = [altered_copy(o, kind, seed=seed + start + i, side=side) for i, o in enumerate(originals)]
            pixels = decode_pixels(copies, shape)
            asked = {name: metrics.normalize(finite(encoder.embed(copies))) for name, encoder in encoders.items()}
            asked["pca"] = metrics.normalize(pca.embed(pixels))
            asked["pixels"] = references.raw_vectors(pixels)
            if turn is not None:
                asked["itq"] = references.bits(pca.embed(pixels), turn)
                asked["code"] = references.code(asked["embedding"])
            targets: Rows = np.arange(start, start + len(copies), dtype=np.int64)
            for name, vectors in asked.items():
                hits[name].append(metrics.recall_at(metrics.target_ranks(vectors, spaces[name], targets), 1))
        for name in spaces:
            recall[name][kind] = float(np.concatenate(hits[name]).mean())
    return recall


def _labelled(spaces: dict[str, Vectors], sample: Gathered) -> dict[str, LabelScores]:
    if not any(name is not None for name in sample.label_names):
        return {}
    own: Rows = np.arange(sample.queries, dtype=np.int64)
    return {
        name: metrics.label_scores(
            vectors[: sample.queries], sample.labels[: sample.queries], vectors, sample.labels, own
        )
        for name, vectors in spaces.items()
    }
