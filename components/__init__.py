"""Custom TFX components, one file each.

TFX finds an artifact type by its name, `components.<Type>`, so the package offers the types, without importing TFX for
whoever only wants one of its small modules.
"""

from typing import Any

_ARTIFACTS = {
    "BaseRelease",
    "Embeddings",
    "EncoderEvaluation",
    "IndexEvaluation",
    "IngestReport",
    "PublishedRelease",
    "Updates",
    "VectorIndex",
}


def __getattr__(name: str) -> Any:
    if name in _ARTIFACTS:
        from components import artifacts

        return getattr(artifacts, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
