"""What is accepted as an image, and the error that says why something isn't."""

import dataclasses

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
# Above this many pixels Pillow itself refuses to open an image.
MOST_PIXELS = 178_956_970
REASONS = ("empty", "too-large", "not-an-image", "format", "too-many-pixels", "truncated", "corrupt", "pixel-type")


class ImageError(ValueError):
    """Bytes that can't be made canonical. reason: one of REASONS, the same for ever, for reports and clients."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[type["ImageError"], tuple[str, str]]:
        return ImageError, (self.reason, str(self))


@dataclasses.dataclass(frozen=True)
class ImageLimits:
    """What is accepted. max_bytes: of the file. max_pixels: width times height, read from the header before decoding.

    max_side: pixels; a longer side is scaled down to it. formats: of FORMATS.
    """

    max_bytes: int = 20 * 2**20
    max_pixels: int = 50_000_000
    max_side: int = 1024
    formats: tuple[str, ...] = FORMATS

    def __post_init__(self) -> None:
        if self.max_bytes < 1:
            raise ValueError(f"max_bytes must be at least 1, got {self.max_bytes}.")
        if not 1 <= self.max_pixels <= MOST_PIXELS:
            raise ValueError(f"max_pixels must be in [1, {MOST_PIXELS}], got {self.max_pixels}.")
        if not 1 <= self.max_side <= 16_384:
            raise ValueError(f"max_side must be in [1, 16384], got {self.max_side}.")
        if not self.formats or not set(self.formats) <= set(FORMATS):
            raise ValueError(f"formats must be some of {', '.join(FORMATS)}, got {', '.join(self.formats) or 'none'}.")


DEFAULT_LIMITS = ImageLimits()
