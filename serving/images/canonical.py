"""The canonical image: what people bring, made into a JPEG or PNG that every encoder decodes the same way.

Ingest and the gateway both call this, so that an image is embedded alike on its way in and as a query. Colour profiles
are not applied: the numbers in the file are the pixels.
"""

import dataclasses
import functools
import hashlib
import io

import numpy as np

# The plugins are imported so that opening by name finds them without loading every other one.
from PIL import (
    BmpImagePlugin,  # noqa: F401
    GifImagePlugin,  # noqa: F401
    Image,
    JpegImagePlugin,  # noqa: F401
    MpoImagePlugin,  # noqa: F401
    PngImagePlugin,  # noqa: F401
    TiffImagePlugin,  # noqa: F401
    UnidentifiedImageError,
    WebPImagePlugin,  # noqa: F401
)

from serving.images.file_bytes import ends_early, is_plain_jpeg, is_plain_png, signature
from serving.images.limits import DEFAULT_LIMITS, ImageError, ImageLimits
from serving.images.pillow_warnings import without_warnings

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION = 0x0112
_ALPHA_MODES = ("RGBA", "LA", "PA", "La", "RGBa")
_SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")
# A scan of a progressive JPEG costs a pass over the whole image however short it is; real files have about ten.
_MOST_SCANS = 100


@dataclasses.dataclass(frozen=True)
class CanonicalImage:
    """A JPEG or PNG that decodes in the graph. width, height: pixels. channels: 1 or 3, 8 bits each."""

    data: bytes
    width: int
    height: int
    channels: int
    format: str

    @functools.cached_property
    def sha256(self) -> str:
        """The sha256 of the bytes, in hex: what names this content."""
        return hashlib.sha256(self.data).hexdigest()


def canonicalize(data: bytes, limits: ImageLimits = DEFAULT_LIMITS) -> CanonicalImage:
    """Returns the canonical image of a file's bytes; the bytes themselves where they are canonical already.

    Raises ImageError for anything that is no image within `limits`, whatever it is instead.
    """
    image = canonicalize_up_to(None, data, limits)
    assert image is not None, "there is no cost that is too high"
    return image


def canonicalize_up_to(pixels: int | None, data: bytes, limits: ImageLimits = DEFAULT_LIMITS) -> CanonicalImage | None:
    """Returns what `canonicalize` does, or None, with nothing decoded, where that would go over more than `pixels`.

    Those of each pass over the image count, as the header says. pixels: None is any number.
    """
    _check_bytes(data, limits)
    with without_warnings():
        image = _open(data, limits)
        source = str(image.format)
        is_jpeg = source in ("JPEG", "MPO")
        passes = _passes(data, source)
        if pixels is not None and image.width * image.height * passes > pixels:
            return None
        if passes > _MOST_SCANS:
            raise ImageError("corrupt", f"a JPEG may have {_MOST_SCANS} scans.")
        try:
            if is_jpeg:
                _draft(image, limits.max_side)
            image.load()
            turn = _turn(image)
            if turn is None and max(image.size) <= limits.max_side and _is_canonical(data, source, image.mode):
                return CanonicalImage(data, *image.size, len(image.getbands()), source)
            plain = _without_alpha(image, data)
            if turn is not None:
                plain = plain.transpose(turn)
            return _encoded(_within(plain, limits.max_side), lossy=is_jpeg or source == "WEBP")
        except ImageError:
            raise
        except Exception as error:  # Pillow's plugins raise whatever type the damaged bytes lead them into
            raise _decoding_error(error, data) from error


def thumbnail(data: bytes, side: int = 96) -> bytes:
    """Returns a small image of a canonical one, its longest side at most `side` pixels: JPEG, or `data` if small.

    Raises ImageError where `data` is no image.
    """
    if side < 1:
        raise ValueError(f"side must be at least 1, got {side}.")
    with without_warnings():
        image = _open(data, DEFAULT_LIMITS)
        if max(image.size) <= side and len(data) <= 16_384 and image.format in ("JPEG", "PNG"):
            return data
        try:
            _draft(image, side, 1)
            image.load()
            small = _within(_without_alpha(image, data), side)
        except ImageError:
            raise
        except Exception as error:  # as in canonicalize
            raise _decoding_error(error, data) from error
        return _saved(small, "JPEG", quality=85)


def _check_bytes(data: bytes, limits: ImageLimits) -> None:
    if not data:
        raise ImageError("empty", "the file is empty.")
    if len(data) > limits.max_bytes:
        raise ImageError("too-large", f"an image may have {limits.max_bytes} bytes, got {len(data)}.")


def _passes(data: bytes, source: str) -> int:
    return max(1, data.count(b"\xff\xda")) if source in ("JPEG", "MPO") else 1


def _draft(image: Image.Image, side: int, margin: int = 2) -> None:
    # A JPEG can be decoded at a half, a quarter or an eighth: never below `margin` times the side that is kept.
    factor = max(image.size) // (margin * side)
    if factor > 1:
        width, height = image.size
        image.draft(image.mode, (width // factor, height // factor))


def _open(data: bytes, limits: ImageLimits) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data), formats=limits.formats)
    except Image.DecompressionBombError as error:
        raise ImageError("too-many-pixels", f"an image may have {limits.max_pixels} pixels: {error}") from error
    except Exception as error:  # as in canonicalize
        found = signature(data)
        if found is None:
            raise ImageError("not-an-image", "the file is not an image.") from error
        if found not in limits.formats:
            accepted = ", ".join(limits.formats)
            raise ImageError("format", f"the file seems to be {found}; accepted are {accepted}.") from error
        raise _decoding_error(error, data) from error
    width, height = image.size
    if width * height > limits.max_pixels:
        raise ImageError("too-many-pixels", f"an image may have {limits.max_pixels} pixels, got {width} x {height}.")
    if not width or not height:
        raise ImageError("corrupt", f"an image must have pixels, got {width} x {height}.")
    return image


def _decoding_error(error: Exception, data: bytes) -> ImageError:
    is_header = isinstance(error, UnidentifiedImageError)
    text = "its header is damaged." if is_header else str(error) or type(error).__name__
    is_cut = "truncated" in text.lower() or isinstance(error, EOFError) or ends_early(data)
    return ImageError("truncated" if is_cut else "corrupt", f"the image can't be decoded: {text}")


def _turn(image: Image.Image) -> Image.Transpose | None:
    try:
        return _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # metadata that can't be read doesn't make the pixels bad; Pillow raises any type here too
        return None


def _is_canonical(data: bytes, source: str, mode: str) -> bool:
    if mode not in ("L", "RGB"):
        return False
    if source == "JPEG":
        return is_plain_jpeg(data)
    return source == "PNG" and is_plain_png(data)


def _without_alpha(image: Image.Image, data: bytes) -> Image.Image:
    """Returns the pixels as `L` or `RGB`, composited on white."""
    if image.mode in _SIXTEEN_BITS:
        return _eight_bits(image)
    transparent = image.info.get("transparency")
    if image.mode == "L" and isinstance(transparent, int) and data.startswith(b"\x89PNG"):
        # Pillow widens grey of 2 and 4 bits to 8, but not the value that is transparent.
        image.info["transparency"] = transparent * {2: 85, 4: 17}.get(data[24], 1)
    if image.mode in _ALPHA_MODES or transparent is not None:
        is_grey = image.mode in ("1", "L", "LA", "La")
        layer = image
        if image.mode not in ("RGBA", "LA"):
            layer = image.convert("LA" if image.mode == "La" else "RGBA")
        result = Image.new("L", layer.size, 255) if is_grey else Image.new("RGB", layer.size, (255, 255, 255))
        result.paste(layer, mask=layer)
        return result
    if image.mode in ("L", "RGB"):
        return image
    if image.mode in ("I", "F", "LAB"):
        raise ImageError(
            "pixel-type", f"pixels must be of 1 to 16 bits, grey or colour, got Pillow's mode {image.mode}."
        )
    return image.convert("L" if image.mode == "1" else "RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    pixels = np.asarray(image)
    grey = (pixels >> 8).astype(np.uint8)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey[pixels == transparent] = 255
    return Image.fromarray(grey)


def _within(image: Image.Image, side: int) -> Image.Image:
    longest = max(image.size)
    if longest <= side:
        return image
    width, height = (max(1, round(length * side / longest)) for length in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0)


def _encoded(image: Image.Image, *, lossy: bool) -> CanonicalImage:
    name = "JPEG" if lossy else "PNG"
    data = _saved(image, name, quality=95, subsampling=0) if lossy else _saved(image, name)
    return CanonicalImage(data, *image.size, len(image.getbands()), name)


def _saved(image: Image.Image, name: str, **options: int) -> bytes:
    # What the source said beside its pixels (profiles, resolutions, comments) must not follow it.
    image.info.clear()
    buffer = io.BytesIO()
    image.save(buffer, name, **options)
    return buffer.getvalue()
