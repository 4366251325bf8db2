"""The canonical image: what people bring, made into a JPEG or PNG that every encoder decodes the same way.

Ingest and the gateway both call this, so that an image is embedded alike on its way in and as a query. Colour profiles
are not applied: the numbers in the file are the pixels.
"""

import contextlib
import dataclasses
import functools
import hashlib
import io
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator

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

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
# Above this many pixels Pillow itself refuses to open an image.
MOST_PIXELS = 178_956_970
REASONS = ("empty", "too-large", "not-an-image", "format", "too-many-pixels", "truncated", "corrupt", "pixel-type")

# How files begin, to tell an image of a format that we don't take from what is no image at all.
_SIGNATURES = {
    "JPEG": (b"\xff\xd8\xff",),
    "PNG": (b"\x89PNG",),
    "WEBP": (b"RIFF????WEBP",),
    "GIF": (b"GIF87a", b"GIF89a"),
    "BMP": (b"BM",),
    "TIFF": (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
    "ISO media (AVIF, HEIC)": (b"????ftyp",),
    "JPEG 2000": (b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51"),
    "JPEG XL": (b"\xff\x0a", b"\0\0\0\x0cJXL "),
    "Photoshop": (b"8BPS",),
    "Windows icon": (b"\0\0\1\0",),
    "SVG": (b"<svg",),
    "portable pixmap": (b"P1\n", b"P2\n", b"P3\n", b"P4\n", b"P5\n", b"P6\n", b"P7\n"),
    "DirectDraw surface": (b"DDS ",),
    "OpenEXR": (b"v/1\1",),
}
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
# The PNG chunks that every decoder understands or may skip; transparency and animation are not among them.
_PLAIN_CHUNKS = frozenset(
    name.encode()
    for name in [
        "IHDR",
        "IDAT",
        "IEND",
        "gAMA",
        "cHRM",
        "sRGB",
        "iCCP",
        "sBIT",
        "pHYs",
        "tIME",
        "tEXt",
        "zTXt",
        "iTXt",
        "bKGD",
        "eXIf",
    ]
)


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
    if not data:
        raise ImageError("empty", "the file is empty.")
    if len(data) > limits.max_bytes:
        raise ImageError("too-large", f"an image may have {limits.max_bytes} bytes, got {len(data)}.")
    with _without_warnings():
        image = _open(data, limits)
        source = str(image.format)
        is_jpeg = source in ("JPEG", "MPO")
        if is_jpeg and data.count(b"\xff\xda") > _MOST_SCANS:
            raise ImageError("corrupt", f"a JPEG may have {_MOST_SCANS} scans.")
        try:
            if is_jpeg and max(image.size) >= 2 * limits.max_side:
                # Decodes at a half, a quarter or an eighth, never below twice the side that is kept.
                image.draft(image.mode, (2 * limits.max_side, 2 * limits.max_side))
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
    with _without_warnings():
        image = _open(data, DEFAULT_LIMITS)
        if max(image.size) <= side and len(data) <= 16_384 and image.format in ("JPEG", "PNG"):
            return data
        try:
            image.draft(image.mode, (2 * side, 2 * side))
            image.load()
            small = _within(_without_alpha(image, data), side)
        except Exception as error:  # as in canonicalize
            raise _decoding_error(error, data) from error
        return _saved(small, "JPEG", quality=85)


def _open(data: bytes, limits: ImageLimits) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data), formats=limits.formats)
    except Image.DecompressionBombError as error:
        raise ImageError("too-many-pixels", f"an image may have {limits.max_pixels} pixels: {error}") from error
    except Exception as error:  # as in canonicalize
        found = _signature(data)
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


def _signature(data: bytes) -> str | None:
    for name, beginnings in _SIGNATURES.items():
        for beginning in beginnings:
            if len(data) >= len(beginning) and all(
                wanted in (ord("?"), got) for wanted, got in zip(beginning, data, strict=False)
            ):
                return name
    return None


def _decoding_error(error: Exception, data: bytes) -> ImageError:
    is_header = isinstance(error, UnidentifiedImageError)
    text = "its header is damaged." if is_header else str(error) or type(error).__name__
    is_cut = "truncated" in text.lower() or isinstance(error, EOFError) or _ends_early(data)
    return ImageError("truncated" if is_cut else "corrupt", f"the image can't be decoded: {text}")


def _ends_early(data: bytes) -> bool:
    # What these formats say of their own length, or how they must end. Pillow's message doesn't tell.
    if data.startswith(b"RIFF"):
        return len(data) < 8 or int.from_bytes(data[4:8], "little") + 8 > len(data)
    if data.startswith(b"BM"):
        return len(data) < 6 or int.from_bytes(data[2:6], "little") > len(data)
    if data.startswith(b"\x89PNG"):
        return b"IEND" not in data[-4096:]
    if data.startswith(b"\xff\xd8"):
        return b"\xff\xd9" not in data[-4096:]
    return False


def _turn(image: Image.Image) -> Image.Transpose | None:
    try:
        return _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # metadata that can't be read doesn't make the pixels bad; Pillow raises any type here too
        return None


def _is_canonical(data: bytes, source: str, mode: str) -> bool:
    if mode not in ("L", "RGB"):
        return False
    if source == "JPEG":
        return _is_plain_jpeg(data)
    return source == "PNG" and _is_plain_png(data)


def _is_plain_jpeg(data: bytes) -> bool:
    """Returns whether every decoder takes it: one baseline or progressive frame of 8 bits, and its end marker."""
    if b"\xff\xd9" not in data[-4096:]:
        return False
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker in (0xC0, 0xC1, 0xC2):
            return data[at + 4 : at + 5] == b"\x08"
        # Fill bytes, restarts and the other kinds of frame (lossless, arithmetic) are left to the re-encoding.
        if marker in (0xFF, 0x01) or 0xD0 <= marker <= 0xDA or (0xC3 <= marker <= 0xCF and marker != 0xC4):
            return False
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return False


def _is_plain_png(data: bytes) -> bool:
    """Returns whether every decoder takes it: 8 bits, grey or RGB, only known chunks, each with its right checksum."""
    if data[24:26] not in (b"\x08\x00", b"\x08\x02"):
        return False
    at, view = 8, memoryview(data)
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        name, end = data[at + 4 : at + 8], at + 8 + length
        if name not in _PLAIN_CHUNKS or end + 4 > len(data):
            return False
        if zlib.crc32(view[at + 4 : end]) != struct.unpack_from(">I", data, end)[0]:
            return False
        if name == b"IEND":
            return True
        at = end + 4
    return False


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
        premultiplied = {"La": "LA", "RGBa": "RGBA"}.get(image.mode)
        layer = (image.convert(premultiplied) if premultiplied else image).convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("L" if is_grey else "RGB")
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


_quiet_lock = threading.Lock()
_quiet_depth = 0
_quiet_filters = contextlib.ExitStack()


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Ignores what Pillow warns of: it concerns the file at hand, and the answer to it is an image or an ImageError.

    Python's filters belong to the process: threads that overlap here share one change of them.
    """
    global _quiet_depth
    with _quiet_lock:
        if not _quiet_depth:
            _quiet_filters.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", module=r"PIL\.")
        _quiet_depth += 1
    try:
        yield
    finally:
        with _quiet_lock:
            _quiet_depth -= 1
            if not _quiet_depth:
                _quiet_filters.close()
