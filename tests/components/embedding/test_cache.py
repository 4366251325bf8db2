import hashlib
import io
import pathlib

import numpy as np
import pytest

from components.embedding.cache import EmbeddingsCache, prefix_digits
from serving.storage import open_store

DIGEST = "e" * 64


def key(number: int) -> bytes:
    return hashlib.sha256(str(number).encode()).digest()


KEYS = [key(number) for number in range(4)]
VECTORS = np.eye(4, 3, dtype=np.float32)


def packed(keys: list[bytes]) -> np.ndarray:
    return np.frombuffer(b"".join(keys), np.uint8).reshape(-1, 32)


@pytest.fixture
def cache(tmp_path) -> EmbeddingsCache:
    return EmbeddingsCache(open_store(tmp_path), DIGEST, 3)


def files(root: pathlib.Path, suffix: str) -> list[pathlib.Path]:
    return sorted((root / "embeddings-cache" / DIGEST).glob(f"*{suffix}"))


def test_what_was_added_is_found(cache):
    cache.add("", packed(KEYS), VECTORS)
    found = cache.lookup("", [KEYS[2], key(99), KEYS[0]])
    assert set(found) == {KEYS[2], KEYS[0]}
    assert found[KEYS[2]].tolist() == [0, 0, 1]


def test_nothing_is_found_in_an_empty_cache(cache):
    assert cache.lookup("a", KEYS) == {}


def test_several_files_of_a_bucket_are_read(cache):
    cache.add("", packed(KEYS[:2]), VECTORS[:2])
    cache.add("", packed(KEYS[2:]), VECTORS[2:])
    assert len(cache.lookup("", KEYS)) == 4


@pytest.mark.parametrize(("written", "read"), [("ab", "a"), ("a", "ab")])
def test_a_run_with_longer_or_shorter_prefixes_finds_it_too(cache, written, read):
    known = bytes.fromhex("ab" + "00" * 31)
    cache.add(written, packed([known]), VECTORS[:1])
    assert cache.lookup(read, [known])[known].tolist() == [1, 0, 0]
    assert cache.lookup("c", [known]) == {}


def test_another_encoder_has_other_embeddings(cache, tmp_path):
    cache.add("", packed(KEYS), VECTORS)
    assert EmbeddingsCache(open_store(tmp_path), "f" * 64, 3).lookup("", KEYS) == {}


@pytest.mark.parametrize("suffix", [".keys.npy", ".vectors.npy"])
def test_a_flipped_byte_makes_a_pair_worthless(cache, tmp_path, suffix):
    cache.add("", packed(KEYS), VECTORS)
    (file,) = files(tmp_path, suffix)
    damaged = bytearray(file.read_bytes())
    damaged[-1] ^= 1
    file.write_bytes(damaged)
    assert cache.lookup("", KEYS) == {}


@pytest.mark.parametrize("suffix", [".keys.npy", ".vectors.npy"])
def test_a_torn_pair_is_passed_over(cache, tmp_path, suffix):
    cache.add("", packed(KEYS[:2]), VECTORS[:2])
    (torn,) = files(tmp_path, suffix)
    torn.write_bytes(torn.read_bytes()[:40])
    cache.add("", packed(KEYS[2:]), VECTORS[2:])
    assert set(cache.lookup("", KEYS)) == set(KEYS[2:])


def test_keys_without_vectors_are_passed_over(cache, tmp_path):
    cache.add("", packed(KEYS), VECTORS)
    files(tmp_path, ".vectors.npy")[0].unlink()
    assert cache.lookup("", KEYS) == {}


def test_foreign_files_are_passed_over(cache, tmp_path):
    cache.add("", packed(KEYS), VECTORS)
    folder = tmp_path / "embeddings-cache" / DIGEST
    (folder / "README").write_text("what is this?")
    (folder / "x.keys.npy").write_bytes(b"no")
    for array, other in [
        (np.zeros((1, 31), np.uint8), np.zeros((1, 3), np.float32)),
        (np.zeros((1, 32), np.uint8), np.zeros((1, 4), np.float32)),
        (np.zeros((2, 32), np.uint8), np.zeros((1, 3), np.float32)),
        (np.zeros((1, 32), np.uint8), np.zeros((1, 3), np.float64)),
    ]:
        contents = []
        for values in (array, other):
            buffer = io.BytesIO()
            np.save(buffer, values)
            contents.append(buffer.getvalue())
        stem = f"-{hashlib.sha256(b''.join(contents)).hexdigest()}"
        (folder / f"{stem}.keys.npy").write_bytes(contents[0])
        (folder / f"{stem}.vectors.npy").write_bytes(contents[1])
    assert cache.lookup("", [*KEYS, bytes(32)]).keys() == set(KEYS)


def test_pickles_are_not_opened(cache, tmp_path):
    buffer = io.BytesIO()
    np.save(buffer, np.asarray([{"a": 1}], object), allow_pickle=True)
    content = buffer.getvalue()
    folder = tmp_path / "embeddings-cache" / DIGEST
    folder.mkdir(parents=True)
    stem = f"-{hashlib.sha256(content + content).hexdigest()}"
    (folder / f"{stem}.keys.npy").write_bytes(content)
    (folder / f"{stem}.vectors.npy").write_bytes(content)
    assert cache.lookup("", KEYS) == {}


@pytest.mark.parametrize(("parts", "digits"), [(1, 1), (8, 1), (16, 1), (17, 2), (256, 2), (257, 3)])
def test_there_are_at_least_as_many_buckets_as_parts(parts, digits):
    assert prefix_digits(parts) == digits
