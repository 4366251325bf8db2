import uuid

import pytest

from components.artifact_files import fetched, fetched_folder, stored, stored_folder
from serving.storage import Store, open_store


@pytest.fixture(params=["local", "object store"])
def store(request, tmp_path) -> Store:
    return open_store(tmp_path if request.param == "local" else f"memory://{uuid.uuid4().hex}")


def test_what_is_stored_can_be_fetched(store):
    with stored(store, "a/b.npy") as path:
        path.write_bytes(b"content")
        assert not store.exists("a/b.npy")
    with fetched(store, "a/b.npy") as path:
        assert path.read_bytes() == b"content"


def test_a_failed_write_leaves_the_old_file(store):
    store.write("a/b.npy", b"old")
    with pytest.raises(OSError, match="disk full"), stored(store, "a/b.npy") as path:
        path.write_bytes(b"half")
        raise OSError("disk full")
    assert store.read("a/b.npy") == b"old"
    assert [file.path for file in store.files("a")] == ["a/b.npy"]


def test_a_folder_comes_back_whole(store):
    with stored_folder(store, "index/shard") as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "x").write_bytes(b"x")
        (folder / "y").write_bytes(b"y")
    with fetched_folder(f"{store.uri}/index/shard") as folder:
        assert (folder / "inner" / "x").read_bytes() == b"x"
        assert (folder / "y").read_bytes() == b"y"


def test_what_is_not_there_is_not_found(store):
    with pytest.raises(FileNotFoundError), fetched(store, "missing") as path:
        path.read_bytes()
