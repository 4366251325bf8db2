"""One contract for every store."""

import multiprocessing
import os
import pathlib
import threading
import time
import uuid
import zipfile
from collections.abc import Iterator

import pytest

from serving.storage import LocalStore, ObjectStore, Store, open_store


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Iterator[Store]:
    if request.param == "local":
        yield open_store(tmp_path / "root")
        return
    store = open_store(f"memory://{uuid.uuid4().hex}")
    yield store
    store.delete("")


def make_folder(folder: pathlib.Path) -> pathlib.Path:
    (folder / "variables").mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"model")
    (folder / "variables" / "data").write_bytes(b"12345")
    return folder


def test_a_path_is_a_local_store_and_a_url_is_not(tmp_path: pathlib.Path) -> None:
    assert isinstance(open_store(tmp_path), LocalStore)
    assert isinstance(open_store(f"file://{tmp_path}"), LocalStore)
    assert open_store(f"file://{tmp_path}").uri == str(tmp_path)
    assert isinstance(open_store("memory://x"), ObjectStore)


def test_a_store_whose_package_is_not_installed_names_it() -> None:
    with pytest.raises(ValueError, match=r"gs://bucket/root can't be opened here: .*gcsfs"):
        open_store("gs://bucket/root")


def test_write_replaces(store: Store) -> None:
    store.write("folder/file", b"old")
    store.write("folder/file", b"new")
    assert store.read("folder/file") == b"new"
    assert [stat.path for stat in store.files("")] == ["folder/file"]


def test_what_is_not_there(store: Store, tmp_path: pathlib.Path) -> None:
    assert not store.exists("nothing")
    assert list(store.files("nothing")) == []
    assert store.folders("nothing") == []
    assert store.clean("nothing") == []
    store.delete("nothing")
    with pytest.raises(FileNotFoundError):
        store.read("nothing")
    with pytest.raises(FileNotFoundError):
        store.download("nothing", tmp_path / "copy")


def test_a_folder_is_no_file(store: Store) -> None:
    store.write("folder/file", b"")
    assert store.exists("folder/file")
    assert not store.exists("folder")


def test_create_refuses_what_exists(store: Store) -> None:
    store.create("lease/1", b"first")
    with pytest.raises(FileExistsError):
        store.create("lease/1", b"second")
    assert store.read("lease/1") == b"first"
    assert [stat.path for stat in store.files("lease")] == ["lease/1"]


def test_a_file_in_the_way_is_not_the_file_that_is_created(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    store = open_store(tmp_path / "file")
    for write in (store.create, store.write):
        with pytest.raises(NotADirectoryError, match="file"):
            write("lease/1", b"first")


def test_one_of_many_threads_creates(store: Store) -> None:
    for attempt in range(20):
        barrier, won = threading.Barrier(8), []

        def create(number: int, name: str = f"lease/{attempt}", barrier=barrier, won=won) -> None:
            barrier.wait()
            try:
                store.create(name, str(number).encode())
                won.append(number)
            except FileExistsError:
                pass

        threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        assert store.read(f"lease/{attempt}") == str(won[0]).encode()


def _create(root: str, barrier, won) -> None:
    store = open_store(root)
    for attempt in range(50):
        barrier.wait()
        try:
            store.create(f"lease/{attempt}", b"x")
            won.value += 1
        except FileExistsError:
            pass


def test_one_of_two_processes_creates(tmp_path: pathlib.Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier, won = context.Barrier(2), [context.Value("i") for _ in range(2)]
    processes = [context.Process(target=_create, args=(str(tmp_path), barrier, count)) for count in won]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert sum(count.value for count in won) == 50


def test_files_are_sorted_and_have_size_and_age(store: Store) -> None:
    before = time.time() - 1
    for path in ("b", "a/2", "a/1", "a/deep/3"):
        store.write(path, b"1234")
    found = list(store.files("a"))
    assert [stat.path for stat in found] == ["a/1", "a/2", "a/deep/3"]
    assert {stat.size for stat in found} == {4}
    assert all(before <= stat.modified <= time.time() + 1 for stat in found)


def test_folders_are_those_right_below(store: Store) -> None:
    for path in ("file", "encoders/b/2/x", "encoders/a/1/x", "encoders/readme"):
        store.write(path, b"")
    assert store.folders("encoders") == ["a", "b"]
    assert store.folders("") == ["encoders"]


def test_put_and_download(store: Store, tmp_path: pathlib.Path) -> None:
    (tmp_path / "source").write_bytes(b"\0\1\2")
    store.put(tmp_path / "source", "deep/down/target")
    store.download("deep/down/target", tmp_path / "new" / "copy")
    assert (tmp_path / "new" / "copy").read_bytes() == b"\0\1\2"


def test_upload(store: Store, tmp_path: pathlib.Path) -> None:
    source = make_folder(tmp_path / "source")
    store.upload(source, "encoders/m/1", "saved_model.pb")
    assert [(stat.path, stat.size) for stat in store.files("encoders/m/1")] == [
        ("encoders/m/1/saved_model.pb", 5),
        ("encoders/m/1/variables/data", 5),
    ]
    with pytest.raises(FileExistsError):
        store.upload(source, "encoders/m/1", "saved_model.pb")
    with pytest.raises(FileNotFoundError, match=r"nothing\.pb"):
        store.upload(source, "encoders/m/2", "nothing.pb")
    assert store.folders("encoders/m") == ["1"]


def test_what_is_uploaded_is_as_old_as_its_upload(store: Store, tmp_path: pathlib.Path) -> None:
    source = make_folder(tmp_path / "source")
    os.utime(source / "saved_model.pb", (1, 1))
    store.upload(source, "encoders/m/1", "saved_model.pb")
    assert all(stat.modified > time.time() - 60 for stat in store.files("encoders"))


def test_delete_a_file_and_a_folder(store: Store) -> None:
    for path in ("a/1", "a/deep/2", "b"):
        store.write(path, b"")
    store.delete("a")
    store.delete("b")
    assert list(store.files("")) == []
    assert store.folders("") == []


def test_only_a_local_store_has_local_paths(store: Store) -> None:
    store.write("a", b"content")
    path = store.local_path("a")
    assert (path is None) == isinstance(store, ObjectStore)
    assert path is None or path.read_bytes() == b"content"


def test_unfinished_writes_are_not_seen_and_cleaned(tmp_path: pathlib.Path) -> None:
    store = open_store(tmp_path)
    store.write("encoders/m/1/saved_model.pb", b"")
    make_folder(tmp_path / "encoders" / "m" / f".2.{uuid.uuid4().hex}.tmp")
    (tmp_path / "encoders" / "m" / f".file.{uuid.uuid4().hex}.tmp").touch()
    (tmp_path / "encoders" / "m" / ".keep.tmp").touch()
    assert store.folders("encoders/m") == ["1"]
    assert [stat.path for stat in store.files("encoders")] == [
        "encoders/m/.keep.tmp",
        "encoders/m/1/saved_model.pb",
    ]
    assert len(store.clean("encoders/m")) == 2
    assert sorted(path.name for path in (tmp_path / "encoders" / "m").iterdir()) == [".keep.tmp", "1"]


def test_create_without_hard_links(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", refuse)
    store = open_store(tmp_path)
    store.create("lease/1", b"first")
    with pytest.raises(FileExistsError):
        store.create("lease/1", b"second")
    assert store.read("lease/1") == b"first"
    assert [path.name for path in (tmp_path / "lease").iterdir()] == ["1"]


def test_create_goes_on_when_the_lease_holder_cleaned_up(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, link, swept = open_store(tmp_path), os.link, []

    def sweep_once(source: pathlib.Path, target: pathlib.Path) -> None:
        if not swept:
            swept.extend(store.clean("lease"))
        link(source, target)

    monkeypatch.setattr("os.link", sweep_once)
    store.create("lease/1", b"first")
    assert swept
    assert store.read("lease/1") == b"first"


def test_a_file_system_that_can_not_create_exclusively_is_refused(tmp_path: pathlib.Path) -> None:
    # zip:// has fsspec's own default, which looks and then writes.
    zipfile.ZipFile(tmp_path / "archive.zip", "w").close()
    store = ObjectStore(f"zip://::{tmp_path}/archive.zip")
    with pytest.raises(NotImplementedError, match="can't create a file exclusively"):
        store.create("LEASE/1", b"")
