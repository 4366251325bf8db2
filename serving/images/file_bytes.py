"""What the bytes of an image file tell without being decoded."""

import struct
import zlib

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
# The PNG chunks that every decoder understands or may skip; transparency and animation are not among them.
_PLAIN_CHUNKS = frozenset(
    {b"IHDR", b"IDAT", b"IEND", b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"sBIT", b"pHYs", b"tIME", b"tEXt", b"zTXt"}
    | {b"iTXt", b"bKGD", b"eXIf"}
)


def signature(data: bytes) -> str | None:
    """Returns the format that a file begins like, or None."""
    for name, beginnings in _SIGNATURES.items():
        for beginning in beginnings:
            if len(data) >= len(beginning) and all(
                wanted in (ord("?"), got) for wanted, got in zip(beginning, data, strict=False)
            ):
                return name
    return None


def ends_early(data: bytes) -> bool:
    """Returns whether a file is shorter than it says, or lacks its end, as far as its format tells."""
    if data.startswith(b"RIFF"):
        return len(data) < 8 or int.from_bytes(data[4:8], "little") + 8 > len(data)
    if data.startswith(b"BM"):
        return len(data) < 6 or int.from_bytes(data[2:6], "little") > len(data)
    if data.startswith(b"\x89PNG"):
        return b"IEND" not in data[-4096:]
    if data.startswith(b"\xff\xd8"):
        return b"\xff\xd9" not in data[-4096:]
    return False


def is_plain_jpeg(data: bytes) -> bool:
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


def is_plain_png(data: bytes) -> bool:
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
