"""Decoding within limits: real images, real processes, really killed."""

import asyncio
import io
import os
import pathlib
import signal
import struct
import zlib
from collections.abc import Iterator

import numpy as np
import psutil
import pytest
from PIL import Image

from serving.gateway.options import Decoding
from serving.images import ImageError, ImageLimits, canonicalize, canonicalize_up_to
from serving.search import errors
from serving.search.deadline import Deadline
from serving.search.decoding import Decoder
from serving.search.workers import Workers
from tests.serving.loop_thread import LoopThread
from tests.serving.pictures import png, png_header

pytestmark = pytest.mark.slow


def picture(width: int, height: int, kind: str = "JPEG", **options: object) -> bytes:
    coarse = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    data = io.BytesIO()
    Image.fromarray(coarse).resize((width, height), Image.Resampling.BILINEAR).save(data, kind, **options)
    return data.getvalue()


class Decode:
    """A Decoder, run in the tests' event loop."""

    def __init__(self, loop: LoopThread, **options: object) -> None:
        self._loop = loop
        self._workers = Workers(threads=2, queue=8)
        self.decoder = Decoder(self._workers, ImageLimits(), Decoding(**options), queue=2)

    def __call__(self, *images: bytes, seconds: float = 30.0) -> list:
        return self._loop.run(self.decoder.canonical(images, Deadline(seconds)))

    @property
    def processes(self) -> list[psutil.Process]:
        return [psutil.Process(process.pid) for process in self.decoder.processes._all]

    def close(self) -> None:
        self._loop.run(self.decoder.processes.close())
        self._workers.close()


@pytest.fixture
def decode(loop: LoopThread) -> Iterator[Decode]:
    decode = Decode(loop, small_pixels=100_000)
    yield decode
    decode.close()


def test_every_way_gives_what_canonicalize_does(decode: Decode) -> None:
    tiny, small, large = png(1), picture(300, 200), picture(1500, 1200, "PNG")
    assert len(tiny) < 16_384
    assert canonicalize_up_to(100_000, small) and not canonicalize_up_to(100_000, large)
    for image in (tiny, small, large):
        assert decode(image) == [canonicalize(image).data]
    assert decode(large, tiny, small, large) == [canonicalize(image).data for image in (large, tiny, small, large)]
    assert len(decode.processes) == 1, "one after the other needs no second process"


@pytest.mark.parametrize("spoilt", [b"", b"no image", png(0)[:60], png_header(30_000, 30_000), picture(900, 900)[:-99]])
def test_what_is_refused_is_refused_alone_and_in_the_same_words(decode: Decode, spoilt: bytes) -> None:
    with pytest.raises(ImageError) as expected:
        canonicalize(spoilt)
    good, bad = decode(png(1), spoilt)
    assert good == canonicalize(png(1)).data
    assert isinstance(bad, errors.InvalidQuery) and bad.field == "image"
    assert str(bad) == str(expected.value) == str(decode(spoilt)[0])


def test_what_libtiff_thinks_of_a_damaged_file_is_kept_from_the_log(
    decode: Decode, capfd: pytest.CaptureFixture[str]
) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40), np.uint8)).save(
        buffer, "TIFF", compression="tiff_lzw"
    )
    good = buffer.getvalue()
    damaged = bytearray(good)
    damaged[200:600] = b"\xff" * 400
    found, bad = decode(good, bytes(damaged))
    assert found == canonicalize(good).data and isinstance(bad, errors.InvalidQuery)
    assert capfd.readouterr().err == ""
    with pytest.raises(ImageError):
        canonicalize(bytes(damaged))
    assert capfd.readouterr().err, "there was nothing to keep"


def test_scans_count(decode: Decode) -> None:
    plain, progressive = picture(300, 300), picture(300, 300, progressive=True)
    assert canonicalize_up_to(89_999, plain) is None and canonicalize_up_to(90_000, plain) == canonicalize(plain)
    assert canonicalize_up_to(6 * 90_000 - 1, progressive) is None
    assert decode(plain, progressive) == [canonicalize(image).data for image in (plain, progressive)]
    assert len(decode.processes) == 1


def test_an_image_that_takes_too_long_is_refused_and_its_process_killed(loop: LoopThread) -> None:
    decode = Decode(loop, small_pixels=0, decode_seconds=0.1)
    try:
        slow = picture(5000, 5000, "PNG")
        (refused,) = decode(slow)
        assert "takes more than 0.1 s to decode" in str(refused)
        assert (decode.decoder.processes.killed, decode.processes) == (1, [])
    finally:
        decode.close()


def test_an_image_that_takes_too_much_memory_is_refused(loop: LoopThread) -> None:
    decode = Decode(loop, small_pixels=0, decode_memory_bytes=256 * 2**20)
    try:
        # 49 million pixels of 4 bytes, and as many again to put them on white.
        alpha = io.BytesIO()
        Image.new("RGBA", (7000, 7000), (1, 2, 3, 4)).save(alpha, "PNG")
        (refused,) = decode(alpha.getvalue())
        assert isinstance(refused, errors.InvalidQuery), "it is no fault of the gateway's"
        assert "memory" in str(refused)
        (process,) = decode.processes
        assert decode(picture(400, 300)) == [canonicalize(picture(400, 300)).data]
        assert decode.processes == [process], "it lives on"
        peak = next(
            line for line in pathlib.Path(f"/proc/{process.pid}/status").read_text().splitlines() if "HWM" in line
        )
        assert int(peak.split()[1]) < 400 * 1024
    finally:
        decode.close()


def test_a_process_that_dies_costs_one_image(decode: Decode, loop: LoopThread) -> None:
    large = picture(3000, 3000, "PNG")
    decode(picture(400, 300))
    (process,) = decode.processes

    async def killed_meanwhile() -> list:
        asked = asyncio.ensure_future(decode.decoder.canonical([large], Deadline(30)))
        await asyncio.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL)
        return await asked

    (refused,) = loop.run(killed_meanwhile())
    assert isinstance(refused, errors.InvalidQuery)
    assert decode(large) == [canonicalize(large).data]


def test_whoever_gives_up_leaves_no_work_behind(decode: Decode, loop: LoopThread) -> None:
    large = picture(3000, 3000, "PNG")
    decode(picture(400, 300))
    with pytest.raises(errors.DeadlineExceeded):
        decode(large, seconds=0.1)
    assert decode.processes == []

    async def gone() -> None:
        asked = asyncio.ensure_future(decode.decoder.canonical([large], Deadline(30)))
        await asyncio.sleep(0.3)
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)

    loop.run(gone())
    assert decode.processes == []
    assert decode(large) == [canonicalize(large).data]


def test_large_images_wait_for_their_turn_up_to_a_limit(decode: Decode, loop: LoopThread) -> None:
    large = picture(1500, 1500, "PNG")

    async def flood() -> list:
        calls = [decode.decoder.canonical([large], Deadline(30)) for _ in range(8)]
        return await asyncio.gather(*calls, return_exceptions=True)

    outcomes = loop.run(flood())
    assert [type(outcome) for outcome in outcomes].count(errors.Overloaded) == 4, "two at work and two in the queue"
    assert [outcome for outcome in outcomes if isinstance(outcome, list)] == [[canonicalize(large).data]] * 4
    assert len(decode.processes) == 2


def bombs() -> dict[str, bytes]:
    """Files that claim to be, or unpack to, far more than they are."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 16, 16, 8, 0, 0, 0, 0))
    text = chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(200 * 2**20), 9))
    profile = chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(200 * 2**20), 9))
    pixels = chunk(b"IDAT", zlib.compress(bytes(16 * 17), 9)) + chunk(b"IEND", b"")
    magic = b"\x89PNG\r\n\x1a\n"
    canvas = (16_382).to_bytes(3, "little")
    webp = b"WEBPVP8X" + struct.pack("<I", 10) + b"\x02\0\0\0" + canvas + canvas
    webp += b"ANIM" + struct.pack("<IIH", 6, 0, 0)
    gif = b"GIF89a" + struct.pack("<HHBBB", 65_535, 65_535, 0, 0, 0) + b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0)
    bmp = (
        b"BM"
        + struct.pack("<IHHI", 100, 0, 0, 54)
        + struct.pack("<IiiHHIIiiII", 40, 30_000, 30_000, 1, 24, 0, 0, 0, 0, 0, 0)
    )
    jpeg = (
        b"\xff\xd8\xff\xc0\0\x11\x08" + struct.pack(">HH", 65_000, 65_000) + b"\3\1\x11\0\2\x11\0\3\x11\0" + bytes(64)
    )
    return {
        "PNG pixels": png_header(30_000, 30_000),
        "PNG zTXt": magic + head + text + pixels,
        "PNG iCCP": magic + head + profile + pixels,
        "WebP canvas": b"RIFF" + struct.pack("<I", len(webp)) + webp,
        "GIF canvas": gif,
        "BMP": bmp,
        "JPEG": jpeg,
    }


@pytest.mark.parametrize("name", bombs())
def test_bombs_do_no_harm(loop: LoopThread, name: str) -> None:
    bomb = bombs()[name]
    decode = Decode(loop)
    try:
        decode(png(1))
        before = psutil.Process().memory_info().rss
        # `make bench NAME=fuzz` holds them to 50 ms, too.
        (outcome,) = decode(bomb)
        assert isinstance(outcome, errors.InvalidQuery | bytes)
        assert psutil.Process().memory_info().rss - before < 50 * 2**20
    finally:
        decode.close()
