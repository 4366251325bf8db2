"""Files that are no good images, or odd ones, or not images at all: made from a seed, the same every time."""

import dataclasses
import io
import struct
import zipfile
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageCms, PngImagePlugin

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
_FLIPS = 40
_TRUNCATIONS = 16
_PNG = b"\x89PNG\r\n\x1a\n"


@dataclasses.dataclass(frozen=True)
class Sample:
    """A file. refused: whether nobody may take it for an image; of the others some are taken and some are not."""

    name: str
    data: bytes
    refused: bool = False


def samples() -> list[Sample]:
    """Returns more than 500 files."""
    good = {name: encoded(noise(), name) for name in FORMATS}
    good |= {"grey JPEG": encoded(noise(channels=1), "JPEG"), "grey PNG": encoded(noise(channels=1), "PNG")}
    good["progressive JPEG"] = encoded(noise(), "JPEG", progressive=True)
    good["deflated TIFF"] = encoded(noise(), "TIFF", compression="tiff_adobe_deflate")
    return [
        *(sample for name, data in good.items() for sample in _truncated(name, data)),
        *(sample for number, (name, data) in enumerate(good.items()) for sample in _flipped(name, data, number)),
        *_wrong_magic(good),
        *_odd(),
        *_polyglots(good),
        *_not_images(),
        *_empty(),
    ]


def bombs() -> list[Sample]:
    """Returns small files that ask for much memory or time; all must be refused."""
    side = 30_000
    rows = zlib.compress(bytes(3 * side + 1) * 200, 9)
    frames = [Image.new("L", (8, 8), i % 256) for i in range(200)]
    wide = bytearray(encoded(noise(8, 8), "GIF", save_all=True, append_images=[noise(8, 8, seed=i) for i in range(50)]))
    wide[6:10] = struct.pack("<HH", 65_535, 65_535)
    tiff = bytearray(encoded(noise(8, 8), "TIFF"))
    jpeg = bytearray(encoded(noise(8, 8), "JPEG"))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", 65_500, 65_500)
    bmp = bytearray(encoded(noise(8, 8), "BMP"))
    bmp[18:26] = struct.pack("<ii", 60_000, 60_000)
    scans = encoded(noise(), "JPEG", progressive=True)
    scan = scans.index(b"\xff\xda")
    text = b"Comment\0\0" + zlib.compress(bytes(200_000_000), 9)
    profile = b"icc\0\0" + zlib.compress(bytes(200_000_000), 9)
    webp = b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8X" + struct.pack("<I", 10) + b"\x10\0\0\0" + b"\xff\x3f\0" * 2
    found = {
        "PNG of 30000 x 30000": _png(side, side, 2, rows),
        "PNG of 2^31 x 2^31": _png(2**31 - 1, 2**31 - 1, 0, b""),
        "PNG of a long text": _with_chunk(encoded(noise(), "PNG"), b"zTXt", text),
        "PNG of a long profile": _with_chunk(_png(side, side, 2, rows), b"iCCP", profile),
        "GIF of 65535 x 65535": bytes(wide),
        "JPEG of 65500 x 65500": bytes(jpeg),
        "JPEG of a thousand scans": scans[:scan] + scans[scan:-2] * 200 + scans[-2:],
        "BMP of 60000 x 60000": bytes(bmp),
        "WebP of 16384 x 16384": webp,
        "TIFF of 100000 x 100000": _tiff_sides(tiff, 100_000),
        "TIFF of 200 large frames": _tiff_sides(
            bytearray(encoded(frames[0], "TIFF", save_all=True, append_images=frames[1:])), 100_000
        ),
        "gzip that looks like FITS": b"SIMPLE  =                    T" + zlib.compress(bytes(100_000_000), 9),
        "zip of zeros": _zipped(bytes(50_000_000)),
    }
    return [Sample(name, data, refused=True) for name, data in found.items()]


def noise(width: int = 40, height: int = 30, channels: int = 3, seed: int = 0) -> Image.Image:
    """Returns an image of random pixels."""
    shape = (height, width) if channels == 1 else (height, width, channels)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, np.uint8))


def encoded(image: Image.Image, name: str, **options: object) -> bytes:
    """Returns an image as a file."""
    buffer = io.BytesIO()
    image.save(buffer, name, **options)
    return buffer.getvalue()


def _truncated(name: str, data: bytes) -> Iterator[Sample]:
    for part in range(_TRUNCATIONS):
        # At the last sixteenth some lack nothing that anybody needs.
        yield Sample(f"{name}, {part}/16 of it", data[: len(data) * part // _TRUNCATIONS], refused=part < 15)


def _flipped(name: str, data: bytes, seed: int) -> Iterator[Sample]:
    generator = np.random.default_rng(seed)
    # Half of them in the head, where the structure is.
    for number in range(_FLIPS):
        bit = int(generator.integers(8 * min(len(data), 200 if number % 2 else len(data))))
        spoiled = bytearray(data)
        spoiled[bit // 8] ^= 1 << bit % 8
        yield Sample(f"{name}, bit {bit} flipped", bytes(spoiled))


def _wrong_magic(good: dict[str, bytes]) -> Iterator[Sample]:
    for name, data in good.items():
        yield Sample(f"{name} without its first 4 bytes", data[4:], refused=True)
        yield Sample(f"{name} of zeros", data[:12] + bytes(len(data) - 12), refused=True)
        for other, head in (("PNG", _PNG), ("JPEG", b"\xff\xd8\xff\xe0"), ("GIF", b"GIF89a"), ("BMP", b"BM")):
            if other not in name:
                yield Sample(f"{name} that begins as {other}", head + data[len(head) :], refused=True)


def _odd() -> Iterator[Sample]:
    colour, grey = noise(), noise(channels=1)
    for name, data in {
        "CMYK JPEG": encoded(colour.convert("CMYK"), "JPEG"),
        "CMYK TIFF": encoded(colour.convert("CMYK"), "TIFF"),
        "16-bit PNG": encoded(Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30) * 100), "PNG"),
        "16-bit TIFF": encoded(Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30) * 100), "TIFF"),
        "float TIFF": encoded(grey.convert("F"), "TIFF"),
        "int TIFF": encoded(grey.convert("I"), "TIFF"),
        "palette PNG": encoded(colour.convert("P"), "PNG"),
        "palette PNG with a transparent colour": encoded(colour.convert("P"), "PNG", transparency=3),
        "PNG of one bit": encoded(colour.convert("1"), "PNG"),
        "RGBA PNG": encoded(colour.convert("RGBA"), "PNG"),
        "LA PNG": encoded(grey.convert("LA"), "PNG"),
        "RGBA WebP": encoded(colour.convert("RGBA"), "WEBP"),
        "lossless WebP": encoded(colour, "WEBP", lossless=True),
        "YCbCr TIFF": encoded(colour.convert("YCbCr"), "TIFF"),
        "JPEG with a profile": encoded(
            colour, "JPEG", icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
        ),
        "JPEG with a profile that is none": encoded(colour, "JPEG", icc_profile=b"none" * 100),
        "PNG with a profile that is none": encoded(colour, "PNG", icc_profile=b"none" * 100),
        "PNG of one pixel": encoded(noise(1, 1), "PNG"),
        "PNG of 1 x 5000": encoded(noise(1, 5000), "PNG"),
        "JPEG of 5000 x 1": encoded(noise(5000, 1), "JPEG"),
        "PNG with texts": encoded(colour, "PNG", pnginfo=_texts()),
    }.items():
        yield Sample(name, data)
    for name in ("GIF", "WEBP", "PNG", "TIFF"):
        yield Sample(f"animated {name}", encoded(colour, name, save_all=True, append_images=[noise(seed=1)] * 3))
    for orientation in range(10):
        exif = Image.Exif()
        exif[0x0112] = orientation
        for name in ("JPEG", "PNG", "WEBP"):
            yield Sample(f"{name} of EXIF orientation {orientation}", encoded(colour, name, exif=exif))
    for length in range(0, 40, 4):
        data = b"Exif\0\0II*\0" + b"\xff" * length
        yield Sample(f"JPEG with EXIF of {length} wrong bytes", encoded(colour, "JPEG", exif=data))


def _polyglots(good: dict[str, bytes]) -> Iterator[Sample]:
    others = {
        "a zip": _zipped(b"hello"),
        "HTML": b"<html><script>alert(1)</script></html>",
        "a program": b"\x7fELF" + bytes(100),
        "PHP": b"<?php system($_GET['c']); ?>",
        "a PNG": good["PNG"],
    }
    for name, data in good.items():
        for other, tail in others.items():
            yield Sample(f"{name} and then {other}", data + tail)
            if other != "a PNG":
                yield Sample(f"{other} and then {name}", tail + data, refused=True)


def _not_images() -> Iterator[Sample]:
    for name, data in {
        "SVG": b"<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>",
        "SVG with an entity": b"<!DOCTYPE s [<!ENTITY x SYSTEM 'file:///etc/passwd'>]><svg>&x;</svg>",
        "HTML": b"<!doctype html><html><body>no</body></html>",
        "zip": _zipped(b"hello"),
        "PDF": b"%PDF-1.7\n1 0 obj << >> endobj\ntrailer << >>\n%%EOF",
        "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
        "text": b"just some text\n" * 20,
        "JSON": b'{"image": "none"}',
        "pickle": b"\x80\x04\x95\x0b\0\0\0\0\0\0\0\x8c\x07builtin\x94.",
        "gzip": b"\x1f\x8b\x08" + bytes(50),
        "program": b"\x7fELF\x02\x01\x01" + bytes(200),
        "HEIC": b"\0\0\0\x20ftypheic" + bytes(100),
        "AVIF": b"\0\0\0\x20ftypavif" + bytes(100),
        "PSD": b"8BPS\0\x01" + bytes(100),
        "ICO": encoded(noise(16, 16), "ICO"),
        "PPM": encoded(noise(), "PPM"),
        "TGA": encoded(noise(), "TGA"),
        "JPEG 2000": b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(100),
        "Photo CD": bytes(2048) + b"PCD_" + bytes(100),
        "FITS": b"SIMPLE  =                    T" + b" " * 2850,
    }.items():
        yield Sample(f"{name} named .jpg", data, refused=True)
    generator = np.random.default_rng(9)
    for size in (1, 2, 3, 4, 8, 12, 16, 64, 256, 1024, 4096):
        yield Sample(f"{size} random bytes", generator.bytes(size), refused=True)


def _empty() -> Iterator[Sample]:
    yield Sample("nothing", b"", refused=True)
    for name, head in (
        ("PNG", _PNG),
        ("JPEG", b"\xff\xd8\xff"),
        ("GIF", b"GIF89a"),
        ("BMP", b"BM"),
        ("TIFF", b"II*\0"),
    ):
        yield Sample(f"only the magic of {name}", head, refused=True)
        yield Sample(f"the magic of {name} and zeros", head + bytes(200), refused=True)
    for width, height in ((0, 0), (0, 8), (8, 0)):
        yield Sample(f"PNG of {width} x {height}", _png(width, height, 2, zlib.compress(b"")), refused=True)
        gif = bytearray(encoded(noise(8, 8), "GIF"))
        gif[6:10] = struct.pack("<HH", width, height)
        yield Sample(f"GIF of {width} x {height}", bytes(gif))
        bmp = bytearray(encoded(noise(8, 8), "BMP"))
        bmp[18:26] = struct.pack("<ii", width, height)
        yield Sample(f"BMP of {width} x {height}", bytes(bmp), refused=True)


def _texts() -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "x" * 1000, zip=True)
    info.add_itxt("Comment", "ü", "de", "Name")
    return info


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _png(width: int, height: int, colour: int, rows: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    return _PNG + _chunk(b"IHDR", header) + _chunk(b"IDAT", rows) + _chunk(b"IEND", b"")


def _with_chunk(png: bytes, name: bytes, data: bytes) -> bytes:
    return png[:33] + _chunk(name, data) + png[33:]


def _tiff_sides(tiff: bytearray, side: int) -> bytes:
    # The first directory's width (256) and height (257), as LONGs.
    at = struct.unpack_from("<I", tiff, 4)[0]
    for entry in range(struct.unpack_from("<H", tiff, at)[0]):
        place = at + 2 + 12 * entry
        if struct.unpack_from("<H", tiff, place)[0] in (256, 257):
            struct.pack_into("<HII", tiff, place + 2, 4, 1, side)
    return bytes(tiff)


def _zipped(data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.txt", data)
    return buffer.getvalue()
