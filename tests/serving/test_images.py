"""The canonical image: what passes, what is made of the rest, and what is refused for which reason."""

import copy
import hashlib
import io
import struct
import threading
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from serving import images
from serving.images import CanonicalImage, ImageError, ImageLimits, canonicalize, thumbnail

RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)


def encoded(image, name, **options):
    buffer = io.BytesIO()
    image.save(buffer, name, **options)
    return buffer.getvalue()


def noise(width=40, height=30, channels=3, seed=0):
    shape = (height, width) if channels == 1 else (height, width, channels)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, np.uint8))


def halves(left, right, mode="RGB"):
    """A 16 x 8 image: `left` and `right` halves."""
    image = Image.new(mode, (16, 8), right)
    image.paste(left, (0, 0, 8, 8))
    return image


def pixels(canonical):
    return np.asarray(Image.open(io.BytesIO(canonical.data)))


def png_chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def with_chunk(png, name, data):
    """Returns `png` with a chunk right behind its header."""
    return png[:33] + png_chunk(name, data) + png[33:]


def reason_of(data, limits=images.DEFAULT_LIMITS):
    with pytest.raises(ImageError) as caught:
        canonicalize(data, limits)
    assert caught.value.reason in images.REASONS
    return caught.value.reason


UPRIGHT = Image.Exif()
UPRIGHT[0x0112] = 1
CANONICAL = {
    "JPEG RGB": encoded(noise(), "JPEG"),
    "JPEG L": encoded(noise(channels=1), "JPEG"),
    "JPEG progressive": encoded(noise(), "JPEG", progressive=True),
    "JPEG upright": encoded(noise(), "JPEG", exif=UPRIGHT),
    "PNG RGB": encoded(noise(), "PNG"),
    "PNG L": encoded(noise(channels=1), "PNG"),
    "PNG of one pixel": encoded(noise(1, 1), "PNG"),
    "PNG at the longest side": encoded(noise(1024, 1), "PNG"),
}


@pytest.mark.parametrize("name", CANONICAL)
def test_a_canonical_file_passes_byte_for_byte(name):
    data = CANONICAL[name]
    canonical = canonicalize(data)
    assert canonical.data is data
    assert canonical.format == name.split()[0]
    assert canonical.channels == (1 if " L" in name else 3)
    assert (canonical.width, canonical.height) == Image.open(io.BytesIO(data)).size
    assert canonical.sha256 == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("name", ["WEBP", "GIF", "BMP", "TIFF"])
def test_other_formats_are_made_jpeg_or_png(name):
    source = halves(RED, BLUE)
    canonical = canonicalize(encoded(source, name))
    assert canonical.format == ("JPEG" if name == "WEBP" else "PNG")
    assert np.abs(pixels(canonical).astype(int) - np.asarray(source)).mean() < 10
    assert canonicalize(canonical.data).data == canonical.data


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_the_orientation_is_applied(name, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    canonical = canonicalize(encoded(halves(RED, BLUE), name, exif=exif))
    assert (canonical.width, canonical.height) == ((8, 16) if orientation >= 5 else (16, 8))
    # Where the red half is after the turn that EXIF defines.
    at = {1: (2, 4), 2: (13, 4), 3: (13, 4), 4: (2, 4), 5: (4, 2), 6: (4, 2), 7: (4, 13), 8: (4, 13)}[orientation]
    red = pixels(canonical)[at[1], at[0]].astype(int)
    assert red[0] > 200 and red[2] < 60
    assert Image.open(io.BytesIO(canonical.data)).getexif().get(0x0112, 1) == 1


def test_exif_that_cannot_be_read_is_ignored():
    data = encoded(noise(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff" + b"\xff" * 40)
    assert canonicalize(data).data == data


@pytest.mark.parametrize(
    ("mode", "clear", "channels"),
    [("RGBA", (9, 9, 9, 0), 3), ("LA", (9, 0), 1)],
)
@pytest.mark.parametrize("name", ["PNG", "TIFF"])
def test_alpha_is_composited_on_white(name, mode, clear, channels):
    canonical = canonicalize(encoded(Image.new(mode, (4, 4), clear), name))
    assert canonical.channels == channels
    assert (pixels(canonical) == 255).all()


def test_half_transparent_black_becomes_grey():
    assert abs(int(pixels(canonicalize(encoded(Image.new("RGBA", (4, 4), (0, 0, 0, 128)), "PNG"))).mean()) - 127) <= 1


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1"])
def test_the_transparent_colour_of_a_png_becomes_white(mode):
    source = halves(0, 255, "L").convert(mode)
    transparent = {"RGB": (0, 0, 0), "L": 0, "P": 0, "1": 0}[mode]
    data = encoded(source, "PNG", transparency=transparent)
    assert b"tRNS" in data
    canonical = canonicalize(data)
    assert canonical.data != data
    assert (pixels(canonical) == 255).all()


@pytest.mark.parametrize("depth", [2, 4])
def test_the_transparent_grey_of_a_narrow_png_becomes_white(depth):
    most = 2**depth - 1
    row = bytes([0]) + bytes([0xFF if depth == 4 else 0xF0])
    header = struct.pack(">IIBBBBB", 8 // depth, 1, depth, 0, 0, 0, 0)
    signature, end = b"\x89PNG\r\n\x1a\n", png_chunk(b"IEND", b"")
    body = png_chunk(b"tRNS", struct.pack(">H", most)) + png_chunk(b"IDAT", zlib.compress(row))
    grey = canonicalize(signature + png_chunk(b"IHDR", header) + body + end)
    assert pixels(grey)[0, 0] == 255
    # One below the brightest stays what it is.
    body = png_chunk(b"tRNS", struct.pack(">H", 0)) + png_chunk(b"IDAT", zlib.compress(bytes([0, 0])))
    assert (pixels(canonicalize(signature + png_chunk(b"IHDR", header) + body + end)) == 255).all()


def test_a_transparent_gif_becomes_white():
    source = Image.new("P", (4, 4), 1)
    source.putpalette([0, 0, 0, 255, 0, 0])
    assert (pixels(canonicalize(encoded(source, "GIF", transparency=1))) == 255).all()


def test_sixteen_bit_grey_keeps_its_eight_high_bits():
    values = np.array([[0, 255, 256, 32767, 65535]], np.uint16)
    for name in ("PNG", "TIFF"):
        canonical = canonicalize(encoded(Image.fromarray(values), name))
        assert canonical.channels == 1
        assert pixels(canonical).tolist() == [[0, 0, 1, 127, 255]]


def test_the_transparent_value_of_sixteen_bit_grey_becomes_white():
    data = with_chunk(encoded(Image.fromarray(np.array([[5, 700]], np.uint16)), "PNG"), b"tRNS", struct.pack(">H", 5))
    assert pixels(canonicalize(data)).tolist() == [[255, 2]]


def test_cmyk_and_one_bit_are_converted():
    canonical = canonicalize(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"))
    assert canonical.channels == 3
    assert np.abs(pixels(canonical)[4, 4].astype(int) - RED).max() < 20
    assert set(pixels(canonicalize(encoded(halves(0, 1, "1"), "PNG"))).ravel()) == {0, 255}


@pytest.mark.parametrize("mode", ["I", "F", "LAB"])
def test_pixels_of_an_unknown_range_are_refused(mode):
    assert reason_of(encoded(Image.new(mode, (4, 4)), "TIFF")) == "pixel-type"


@pytest.mark.parametrize("name", ["GIF", "WEBP", "PNG", "TIFF", "MPO"])
def test_the_first_frame_of_an_animation_is_taken(name):
    first, second = Image.new("RGB", (8, 8), RED), Image.new("RGB", (8, 8), BLUE)
    data = encoded(first, name, save_all=True, append_images=[second])
    canonical = canonicalize(data)
    assert canonical.data != data or name == "MPO"
    assert np.abs(pixels(canonical)[4, 4].astype(int) - RED).max() < 20
    assert not getattr(Image.open(io.BytesIO(canonical.data)), "is_animated", False)


def test_the_longest_side_is_capped():
    for size, wanted in [((2048, 1000), (1024, 500)), ((30, 3000), (10, 1024)), ((3000, 1), (1024, 1))]:
        for name in ("PNG", "JPEG"):
            canonical = canonicalize(encoded(Image.new("RGB", size, RED), name))
            assert (canonical.width, canonical.height) == wanted
            assert np.abs(pixels(canonical)[0, 5].astype(int) - RED).max() < 20
    assert canonicalize(encoded(noise(64, 64), "PNG"), ImageLimits(max_side=16)).width == 16


def test_scaling_down_averages():
    board = np.indices((64, 64)).sum(0) % 2 * 255
    small = canonicalize(encoded(Image.fromarray(board.astype(np.uint8)), "PNG"), ImageLimits(max_side=16))
    assert np.abs(pixels(small).astype(int) - 127).max() <= 3


def test_what_was_said_beside_the_pixels_does_not_follow():
    notes = PngImagePlugin.PngInfo()
    notes.add_text("Author", "somebody")
    data = encoded(noise().convert("P"), "PNG", pnginfo=notes, dpi=(300, 300), icc_profile=b"not a profile")
    canonical = canonicalize(data)
    assert b"somebody" not in canonical.data and b"iCCP" not in canonical.data and b"pHYs" not in canonical.data


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"\0", "not-an-image"),
        (b"just some text, no image at all", "not-an-image"),
        (b"%PDF-1.7 and so on", "not-an-image"),
        (b"\0\0\0\x20ftypheic" + bytes(40), "format"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "format"),
        (encoded(Image.new("RGB", (4, 4)), "PPM"), "format"),
        (encoded(Image.new("RGB", (16, 16)), "ICO"), "format"),
        (b"\x89PNG\r\n\x1a\n", "truncated"),
        (b"\xff\xd8\xff", "truncated"),
    ],
)
def test_what_is_no_image_is_refused(data, reason):
    assert reason_of(data) == reason


def test_a_format_that_is_not_listed_is_refused():
    limits = ImageLimits(formats=("JPEG", "PNG"))
    assert reason_of(encoded(noise(), "GIF"), limits) == "format"
    assert canonicalize(encoded(noise(), "PNG"), limits).format == "PNG"


@pytest.mark.parametrize("name", images.FORMATS)
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.95])
def test_a_truncated_file_is_refused(name, kept):
    data = encoded(noise(), name)
    assert reason_of(data[: int(len(data) * kept)]) in ("truncated", "corrupt")


def test_truncation_is_told_from_corruption():
    for name in images.FORMATS:
        data = encoded(noise(), name)
        assert reason_of(data[: len(data) // 2]) == "truncated"
    png = bytearray(CANONICAL["PNG RGB"])
    png[60] ^= 1
    assert reason_of(bytes(png)) == "corrupt"


def test_the_limits_are_checked_before_decoding():
    data = CANONICAL["PNG RGB"]
    assert reason_of(data, ImageLimits(max_bytes=len(data) - 1)) == "too-large"
    assert canonicalize(data, ImageLimits(max_bytes=len(data), max_pixels=1200)).width == 40
    assert reason_of(data, ImageLimits(max_pixels=1199)) == "too-many-pixels"
    # A header alone, for there is nothing behind it to decode.
    for side in (10_000, 30_000, 2**31 - 1):
        header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
        bomb = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", b"")
        assert reason_of(bomb) == "too-many-pixels"


def test_compressed_text_in_a_png_does_not_explode():
    text = b"Comment\0\0" + zlib.compress(bytes(200_000_000), 9)
    data = with_chunk(CANONICAL["PNG RGB"], b"zTXt", text)
    assert reason_of(data, ImageLimits(max_bytes=2**20)) == "corrupt"


def test_a_jpeg_of_a_thousand_scans_is_refused():
    data = encoded(noise(), "JPEG", progressive=True)
    start = data.index(b"\xff\xda")
    assert reason_of(data[:start] + data[start:-2] * 100 + data[-2:]) == "corrupt"


def test_a_png_that_decoders_differ_about_is_written_anew():
    data = CANONICAL["PNG RGB"]
    for odd in (
        data[:-12],  # without its end
        with_chunk(data, b"prVt", b"private"),
        with_chunk(data, b"prVT", b"private")[:-12],
    ):
        canonical = canonicalize(odd)
        assert canonical.data != odd
        assert (pixels(canonical) == np.asarray(noise())).all()
    assert canonicalize(data + b"garbage behind the end").data == data + b"garbage behind the end"


def test_warnings_never_escape():
    huge = ImageLimits(max_pixels=images.MOST_PIXELS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # Pillow warns of this many pixels, and of a TIFF's metadata.
        data = encoded(Image.new("1", (10_000, 9_000)), "PNG")
        assert canonicalize(data, huge).width == 1024
        tiff = bytearray(encoded(noise(), "TIFF"))
        tiff[-20:] = bytes(20)
        canonicalize(bytes(tiff))


def test_threads_leave_the_filters_of_the_process_alone():
    before = list(warnings.filters)
    threads = [
        threading.Thread(target=lambda: [canonicalize(CANONICAL["JPEG RGB"]) for _ in range(50)]) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(warnings.filters) == before


def test_limits_are_validated():
    for wrong in ({"max_bytes": 0}, {"max_pixels": 10**9}, {"max_side": 0}, {"formats": ("EPS",)}, {"formats": ()}):
        with pytest.raises(ValueError, match="must be"):
            ImageLimits(**wrong)


def test_an_error_and_an_image_can_be_copied():
    error = copy.copy(ImageError("empty", "the file is empty."))
    assert (error.reason, str(error)) == ("empty", "the file is empty.")
    canonical = canonicalize(CANONICAL["PNG L"])
    assert copy.copy(canonical) == canonical
    assert CanonicalImage(b"x", 1, 1, 1, "PNG").sha256 == hashlib.sha256(b"x").hexdigest()


def test_thumbnails_fit():
    small = thumbnail(encoded(noise(400, 300), "PNG"))
    image = Image.open(io.BytesIO(small))
    assert (image.format, image.size) == ("JPEG", (96, 72))
    digit = encoded(noise(28, 28, 1), "PNG")
    assert thumbnail(digit) is digit
    assert Image.open(io.BytesIO(thumbnail(digit, 8))).size == (8, 8)
    with pytest.raises(ImageError):
        thumbnail(b"nothing")
    with pytest.raises(ValueError, match="side"):
        thumbnail(digit, 0)
