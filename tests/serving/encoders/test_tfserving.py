import asyncio
import time
from collections.abc import Iterator

import grpc
import numpy as np
import pytest

from serving.encoders.tfserving import TfServingEncoder
from serving.search import errors
from tests.serving.fake_model_server import FakeModelServer, embed
from tests.serving.loop_thread import LoopThread
from tests.serving.pictures import png

IMAGES = [png(0), png(1), png(2)]


@pytest.fixture
def server(loop: LoopThread) -> Iterator[FakeModelServer]:
    server = FakeModelServer()
    loop.run(server.start())
    yield server
    loop.run(server.stop())


@pytest.fixture
def encoder(loop: LoopThread, server: FakeModelServer) -> Iterator[TfServingEncoder]:
    async def make() -> TfServingEncoder:
        return TfServingEncoder(server.address)

    encoder = loop.run(make())
    yield encoder
    loop.run(encoder.close())


def encode(
    loop: LoopThread, encoder: TfServingEncoder, images: list[bytes], timeout: float = 5.0, **spec
) -> np.ndarray:
    return loop.run(encoder.encode(images, **{"model": "encoder", "version": 1, **spec}, timeout=timeout))


@pytest.mark.parametrize("as_content", [False, True])
def test_encode_reads_both_ways_of_sending_tensors(loop, encoder, server, as_content: bool) -> None:
    server.as_content = as_content
    np.testing.assert_array_equal(encode(loop, encoder, IMAGES), embed(IMAGES))


def test_encode_asks_the_version_of_the_release(loop, encoder, server) -> None:
    server.versions = {1: 0, 2: 1}
    np.testing.assert_array_equal(encode(loop, encoder, IMAGES, version=2), embed(IMAGES, seed=1))
    assert server.asked == [(2, 3)]


def test_another_version_in_the_answer_is_an_error(loop, encoder, server) -> None:
    server.answers_as = 2
    with pytest.raises(errors.EncoderFault, match="asked version 1 of encoder encoder, was answered by 2"):
        encode(loop, encoder, IMAGES)


def test_one_bad_image_costs_one_image(loop, encoder, server) -> None:
    server.rejects = {IMAGES[1]}
    with pytest.raises(errors.ImagesRejected) as caught:
        encode(loop, encoder, IMAGES)
    assert list(caught.value.reasons) == [1]
    assert "Unknown image" not in str(caught.value)
    expected = embed(IMAGES)
    expected[1] = 0
    np.testing.assert_array_equal(caught.value.embeddings, expected)
    assert server.asked == [(1, 3), (1, 1), (1, 1), (1, 1)]


def test_a_single_bad_image_is_not_asked_twice(loop, encoder, server) -> None:
    server.rejects = {IMAGES[0]}
    with pytest.raises(errors.ImagesRejected):
        encode(loop, encoder, IMAGES[:1])
    assert len(server.asked) == 1


def test_only_bad_images(loop, encoder, server) -> None:
    server.rejects = set(IMAGES)
    with pytest.raises(errors.ImagesRejected) as caught:
        encode(loop, encoder, IMAGES)
    assert caught.value.embeddings.shape == (3, 0)


def test_a_version_that_is_not_loaded(loop, encoder) -> None:
    with pytest.raises(errors.EncoderUnavailable, match="version 7 of encoder encoder is not loaded"):
        encode(loop, encoder, IMAGES, version=7)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.UNAVAILABLE, errors.EncoderUnavailable),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, errors.Overloaded),
        (grpc.StatusCode.DEADLINE_EXCEEDED, errors.DeadlineExceeded),
        (grpc.StatusCode.FAILED_PRECONDITION, errors.EncoderFault),
        (grpc.StatusCode.UNIMPLEMENTED, errors.EncoderFault),
        (grpc.StatusCode.INTERNAL, errors.EncoderFault),
    ],
)
def test_each_status_becomes_an_error_that_tells_nothing_of_the_insides(loop, encoder, server, code, kind) -> None:
    server.fails_with = code
    with pytest.raises(kind) as caught:
        encode(loop, encoder, IMAGES)
    assert "secret" not in str(caught.value)


def test_an_encoder_that_is_away_fails_fast_and_is_found_again(loop, encoder, server) -> None:
    encode(loop, encoder, IMAGES)
    loop.run(server.stop())
    with pytest.raises(errors.EncoderUnavailable, match="can't be reached"):
        encode(loop, encoder, IMAGES, timeout=600)
    assert not loop.run(encoder.available(model="encoder", version=1, timeout=1))
    loop.run(server.start())
    for _ in range(100):
        if loop.run(encoder.available(model="encoder", version=1, timeout=1)):
            break
        time.sleep(0.1)
    np.testing.assert_array_equal(encode(loop, encoder, IMAGES), embed(IMAGES))


def test_a_slow_encoder_meets_the_deadline(loop, encoder, server) -> None:
    server.delay = 5
    with pytest.raises(errors.DeadlineExceeded):
        encode(loop, encoder, IMAGES, timeout=0.1)


def test_nothing_is_asked_after_the_deadline(loop, encoder, server) -> None:
    with pytest.raises(errors.DeadlineExceeded):
        encode(loop, encoder, IMAGES, timeout=0)
    assert server.asked == []


def test_available(loop, encoder) -> None:
    async def ask() -> list[bool]:
        return await asyncio.gather(
            encoder.available(model="encoder", version=1, timeout=1),
            encoder.available(model="encoder", version=2, timeout=1),
            encoder.available(model="other", version=1, timeout=1),
        )

    assert loop.run(ask()) == [True, False, False]


@pytest.mark.parametrize("as_content", [False, True])
def test_reconstruct(loop, encoder, server, as_content: bool) -> None:
    server.as_content = as_content
    answer = loop.run(encoder.reconstruct(IMAGES, model="encoder", version=1, timeout=30))
    assert answer.images.shape == (3, 8, 8, 1) and answer.images.dtype == np.uint8
    assert answer.errors.shape == (3,)
