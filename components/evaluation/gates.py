"""Whether an encoder is good enough to be served: what it must show, and what to try where it doesn't."""

import dataclasses
import textwrap
from collections.abc import Iterator, Sequence

from components.evaluation.exported_encoder import TrainingInfo
from components.evaluation.measurement import BINARY, Measurement, Reconstruction

PASSED, FAILED, NOT_JUDGED = "passed", "failed", "not judged"

# Families that exist to reconstruct: with enough data each must beat PCA at it.
RECONSTRUCTING = frozenset({"undercomplete", "deep", "convolutional"})
# What the others are compared with: they may be served as they are.
REFERENCES = frozenset({"pixels", "pca", "itq", "descriptors"})
# Families that learn from labels: of no use to a collection that has none, and judged by them where it has.
SUPERVISED = frozenset({"cnn"})

_RETRAIN = "Train longer, or with a lower learning rate; look at the loss in TensorBoard."
_WIDEN = "Train longer or widen the network (encoder.filters), or raise encoder.dimension."


@dataclasses.dataclass(frozen=True)
class GateLimits:
    """The thresholds. pca: how much less than PCA's mean recall@1 of altered copies may be, absolute.

    served: how much worse than the served encoder, absolute for recall and label scores; served_mse: the same for the
    reconstruction, relative. mean_margin: how much below predict-the-mean's error, relative. report_margin: how far the
    reported error may fall short of what the pictures show, relative. rank_share: the least effective rank, as the
    share of the way from 1 to PCA's. spread: the least mean squared distance of unit embeddings from their mean.
    dead_share: the most dimensions that may hardly vary. few, some: contents below which means, and retrieval, can't be
    judged. flat: the pixel variance at or below which images hardly differ. pca_contents: contents from which on
    families that reconstruct must beat PCA at it.
    """

    pca: float = 0.05
    served: float = 0.02
    served_mse: float = 0.1
    mean_margin: float = 0.01
    report_margin: float = 0.1
    rank_share: float = 0.1
    spread: float = 1e-4
    dead_share: float = 0.9
    few: int = 20
    some: int = 50
    flat: float = 1e-5
    pca_contents: int = 5_000

    def __post_init__(self) -> None:
        for name in ("pca", "served", "served_mse"):
            value = getattr(self, name)
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"{name} must be in [0, 1], got {value}.")


@dataclasses.dataclass(frozen=True)
class Gate:
    """One condition. status: PASSED, FAILED or NOT_JUDGED. reason: what was measured against what."""

    name: str
    status: str
    reason: str
    advice: str = ""


def judge(
    info: TrainingInfo, measured: Measurement, limits: GateLimits, *, served: str | None, served_problem: str | None
) -> list[Gate]:
    """Returns every gate. served: what `CURRENT` names, None for nothing; served_problem: why it can't be compared."""
    gates = [_usable(info, measured), _varies(measured, limits), *_collapsed(info, measured, limits)]
    gates += _draws(measured, limits)
    gates += [_retrieves(info, measured, limits), _beats_pca(info, measured, limits)]
    gates += _by_labels(info, measured, limits)
    gates += _not_worse_than_served(measured, limits, served, served_problem)
    return gates


def is_blessed(gates: Sequence[Gate]) -> bool:
    """Returns whether nothing failed."""
    return all(gate.status != FAILED for gate in gates)


def table(gates: Sequence[Gate]) -> str:
    """Returns the gates as plain text, failures first, each with its reason and what to try."""
    order = {FAILED: 0, NOT_JUDGED: 1, PASSED: 2}
    lines = []
    for gate in sorted(gates, key=lambda gate: order[gate.status]):
        lines.append(f"{gate.status.upper():<11} {gate.name}")
        lines += textwrap.wrap(gate.reason, 100, initial_indent=" " * 12, subsequent_indent=" " * 12)
        if gate.status == FAILED and gate.advice:
            lines += textwrap.wrap("Try: " + gate.advice, 100, initial_indent=" " * 12, subsequent_indent=" " * 17)
    return "\n".join(lines)


def _gate(name: str, good: bool, reason: str, advice: str) -> Gate:
    return Gate(name, PASSED if good else FAILED, reason, advice)


def _usable(info: TrainingInfo, measured: Measurement) -> Gate:
    name = "embeddings are finite and of unit length"
    if not measured.spectrum.is_finite:
        return Gate(name, FAILED, "Some embedding holds NaN or infinity.", "Lower training.learning_rate.")
    error = measured.spectrum.norm_error
    reason = f"The length of every embedding is within {error:.1e} of 1 (at most 1e-03)."
    advice = "The export must L2-normalise. Zeros come from a network that died: lower training.learning_rate."
    return _gate(name, error <= 1e-3 or not info.normalised, reason, advice)


def _too_alike(measured: Measurement, limits: GateLimits, least: int) -> str | None:
    """Returns why means over the sample say nothing, or None where they do."""
    if measured.database < least:
        return f"Only {measured.database} different images; {least} are needed to judge this."
    if measured.pixel_variance <= limits.flat:
        variance = measured.pixel_variance
        return f"The images hardly differ: their pixels vary by {variance:.1e} (more than {limits.flat:.0e})."
    return None


def _varies(measured: Measurement, limits: GateLimits) -> Gate:
    name = "alive: the embedding depends on the image"
    if reason := _too_alike(measured, limits, 2):
        return Gate(name, NOT_JUDGED, reason)
    farthest = measured.spectrum.farthest
    reason = f"Numbers of the {measured.database} embeddings differ by up to {farthest:.1e} (more than 1e-05)."
    return _gate(name, farthest > 1e-5, reason, "The encoder answers the same for every image. " + _RETRAIN)


def _collapsed(info: TrainingInfo, measured: Measurement, limits: GateLimits) -> Iterator[Gate]:
    rank_name, spread_name, dead_name = (
        "not collapsed: effective rank",
        "not collapsed: spread",
        "not collapsed: variance of each dimension",
    )
    if reason := _too_alike(measured, limits, limits.few):
        yield from (Gate(name, NOT_JUDGED, reason) for name in (rank_name, spread_name, dead_name))
        return
    s = measured.spectrum
    least = 1.0 + limits.rank_share * (measured.reference_rank - 1.0)
    advice = "The embedding uses few of its dimensions. " + _RETRAIN + " A smaller encoder.dimension may do as well."
    yield _gate(
        rank_name,
        s.effective_rank >= min(least, info.dimension),
        f"Effective rank {s.effective_rank:.2f} of {info.dimension} dimensions, PCA's is {measured.reference_rank:.2f} "
        f"(at least {least:.2f}).",
        advice,
    )
    spread = f"Mean squared distance of embeddings from their mean {s.spread:.1e} (at least {limits.spread:.0e})."
    yield _gate(spread_name, s.spread >= limits.spread, spread, "All images look alike to the encoder. " + _RETRAIN)
    most = f"(at most {limits.dead_share:.0%})"
    dead = f"{s.dead_share:.0%} of dimensions vary by less than a hundredth of the average {most}."
    yield _gate(dead_name, s.dead_share <= limits.dead_share, dead, advice)


def _draws(measured: Measurement, limits: GateLimits) -> Iterator[Gate]:
    names = (
        "alive: the reconstruction depends on the image",
        "alive: reconstructs better than predict-the-mean",
        "the reported error is that of the pictures",
    )
    r = measured.reconstruction
    if r.reported is None or r.shown is None or r.variation is None:
        yield from (Gate(name, NOT_JUDGED, "This family doesn't reconstruct.") for name in names)
        return
    if reason := _too_alike(measured, limits, limits.few):
        yield from (Gate(name, NOT_JUDGED, reason) for name in names[:2])
    else:
        drawn = f"Its pictures' pixels vary by {r.variation:.1e}, the images' by {measured.pixel_variance:.1e}"
        least = measured.pixel_variance / 100.0
        advice = "The decoder draws one picture for all images. " + _RETRAIN
        yield _gate(names[0], r.variation >= least, f"{drawn} (at least {least:.1e}).", advice)
        yield _better_than_mean(names[1], r, limits)
    least = r.shown * (1.0 - limits.report_margin) - 1e-4
    yield _gate(
        names[2],
        r.reported >= least,
        f"Reported {r.reported:.5f}, its pictures show {r.shown:.5f} (reported at least {max(least, 0.0):.5f}).",
        "The `reconstruct` signature must compare with the image as resized by the encoder itself.",
    )


def _better_than_mean(name: str, r: Reconstruction, limits: GateLimits) -> Gate:
    worst = _error(r)
    most = r.mean * (1.0 - limits.mean_margin)
    black = " It is no better than all-black." if worst >= r.black * (1.0 - limits.mean_margin) else ""
    mean = f"predict-the-mean {r.mean:.5f} (at most {most:.5f}), all-black {r.black:.5f}."
    reason = f"Mean squared error {worst:.5f}; {mean}{black}"
    return _gate(name, worst <= most, reason, "The decoder learned nothing of the image. " + _RETRAIN)


def _error(r: Reconstruction) -> float:
    # The larger of the two: neither a wrong report nor a wrong picture helps.
    return max(r.reported or 0.0, r.shown or 0.0)


def _mean_recall(measured: Measurement, name: str) -> float:
    values = measured.recall[name].values()
    return sum(values) / len(values)


def _retrieves(info: TrainingInfo, measured: Measurement, limits: GateLimits) -> Gate:
    # Bits can't hold what as many numbers do: a code is measured against the best linear code of its length.
    own, space, title = ("code", "itq", "ITQ") if info.family in BINARY else ("embedding", "pca", "PCA")
    name = f"finds originals of altered copies no worse than {title}"
    if info.family in REFERENCES:
        return Gate(name, NOT_JUDGED, f"Not asked of the family {info.family!r}: it is what others are compared with.")
    if info.family in SUPERVISED:
        return Gate(name, NOT_JUDGED, f"Not asked of the family {info.family!r}: it is judged by labels.")
    if reason := _too_alike(measured, limits, limits.some):
        return Gate(name, NOT_JUDGED, reason)
    mine, other, pixels = (_mean_recall(measured, each) for each in (own, space, "pixels"))
    reason = (
        f"Recall@1 {mine:.3f}, {title} {other:.3f} (at least {max(other - limits.pca, 0.0):.3f}), raw pixels "
        f"{pixels:.3f}, for {measured.copies} images among {measured.database}."
    )
    advice = "What the encoder keeps isn't what tells images apart. " + _WIDEN
    return _gate(name, mine >= other - limits.pca, reason, advice)


def _by_labels(info: TrainingInfo, measured: Measurement, limits: GateLimits) -> Iterator[Gate]:
    if info.family not in SUPERVISED:
        return
    name = "agrees with the labels better than PCA"
    advice = "Choose a family that needs no labels (encoder.family), or name labels (ingest.label_from)."
    if measured.labelled_queries == 0:
        yield Gate(name, FAILED, f"The family {info.family!r} is for labelled collections; this one has none.", advice)
    elif measured.labelled_queries < limits.some:
        reason = f"Only {measured.labelled_queries} labelled queries; {limits.some} are needed to judge this."
        yield Gate(name, NOT_JUDGED, reason)
    else:
        mine, pca = (measured.labelled[space]["map_at_r"] for space in ("embedding", "pca"))
        yield _gate(name, mine > pca, f"mAP@R {mine:.3f}, PCA {pca:.3f}.", _RETRAIN)


def _beats_pca(info: TrainingInfo, measured: Measurement, limits: GateLimits) -> Gate:
    name, r = "reconstructs better than PCA", measured.reconstruction
    if info.family not in RECONSTRUCTING or r.reported is None or r.shown is None:
        return Gate(name, NOT_JUDGED, f"Not asked of the family {info.family!r}.")
    if measured.contents < limits.pca_contents:
        reason = f"Asked from {limits.pca_contents} different images on; there are {measured.contents}."
        return Gate(name, NOT_JUDGED, reason)
    if info.dimension >= info.shape.size:
        return Gate(name, NOT_JUDGED, f"{info.dimension} dimensions hold all of an image's {info.shape.size} numbers.")
    error = _error(r)
    reason = f"Mean squared error {error:.5f}; PCA with {r.pca_dimension} dimensions {r.pca:.5f}."
    return _gate(name, error < r.pca, reason, _WIDEN)


def _not_worse_than_served(
    measured: Measurement, limits: GateLimits, served: str | None, problem: str | None
) -> Iterator[Gate]:
    name = "not worse than the served encoder"
    if served is None or problem is not None:
        yield Gate(name, NOT_JUDGED, problem or "Nothing is served yet.")
        return
    if reason := _too_alike(measured, limits, limits.some):
        yield Gate(name, NOT_JUDGED, reason)
        return
    advice = f"Keep {served}, or retrain. To change over all the same, raise evaluation.served_tolerance."
    mine, theirs = (_mean_recall(measured, space) for space in ("embedding", "served"))
    pairs = [("recall@1 of altered copies", mine, theirs)]
    if measured.labelled_queries >= limits.some:
        score = "map_at_r"
        pairs.append(("mAP@R", measured.labelled["embedding"][score], measured.labelled["served"][score]))
    for what, value, other in pairs:
        reason = f"{value:.3f}; {served} has {other:.3f} (at least {max(other - limits.served, 0.0):.3f})."
        yield _gate(f"{name}: {what}", value >= other - limits.served, reason, advice)
    reported = measured.reconstruction.reported
    if measured.served_mse is not None and reported is not None:
        most = measured.served_mse * (1.0 + limits.served_mse)
        reason = f"Mean squared error {reported:.5f}; {served} has {measured.served_mse:.5f} (at most {most:.5f})."
        yield _gate(f"{name}: reconstruction", reported <= most, reason, advice)
