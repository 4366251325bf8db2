"""The canonical image, which ingest and the gateway make with the same code."""

from serving.images.canonical import CanonicalImage, canonicalize, canonicalize_up_to, thumbnail
from serving.images.limits import DEFAULT_LIMITS, FORMATS, MOST_PIXELS, REASONS, ImageError, ImageLimits

__all__ = [
    "DEFAULT_LIMITS",
    "FORMATS",
    "MOST_PIXELS",
    "REASONS",
    "CanonicalImage",
    "ImageError",
    "ImageLimits",
    "canonicalize",
    "canonicalize_up_to",
    "thumbnail",
]
