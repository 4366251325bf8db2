"""What our components pass on, beyond TFX's own artifact types."""

from tfx.types.artifact import Artifact


class IngestReport(Artifact):
    """`report.json`: how many images were read, skipped and why, which splits they went to."""

    TYPE_NAME = "components.IngestReport"


class BaseRelease(Artifact):
    """`base.json` and `release.json`: the release that a reindex builds on, and whether its embeddings still hold."""

    TYPE_NAME = "components.BaseRelease"


class Updates(Artifact):
    """`state.sqlite` and `watermark.json`: what was upserted and deleted beside the images, out of the journal."""

    TYPE_NAME = "components.Updates"


class EncoderEvaluation(Artifact):
    """`evaluation.json`, `report.html` and pictures: the encoder beside its references."""

    TYPE_NAME = "components.EncoderEvaluation"


class Embeddings(Artifact):
    """`part-00000-of-00008.npy` (float32 `[n, D]`) and `.sqlite` (its items in the same order), and `encoder.json`."""

    TYPE_NAME = "components.Embeddings"


class VectorIndex(Artifact):
    """The body of a release (`index/`, `embeddings/`, `items/` as serving.release.layout has it), and `index.json`."""

    TYPE_NAME = "components.VectorIndex"


class IndexEvaluation(Artifact):
    """`evaluation.json` and `golden.json`: recall and speed of an index, and the queries a reader checks it with."""

    TYPE_NAME = "components.IndexEvaluation"


class PublishedRelease(Artifact):
    """`release.json` of what `CURRENT` named when Publisher ended."""

    TYPE_NAME = "components.PublishedRelease"
