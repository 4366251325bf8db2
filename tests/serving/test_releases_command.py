"""The command as a person runs it, in this process: one of its own would import everything again each time."""

import json
import pathlib
import subprocess
import sys
import uuid
from collections.abc import Callable

import pytest

from serving.cli import main
from serving.index import IndexParameters
from serving.release.current import read_current
from serving.release.encoder_info import Probe
from serving.release.lease import hold_lease
from serving.storage import open_store
from tests.serving.fake_model_server import MODEL, FakeModelServer, embed
from tests.serving.journal.changes import delete, upsert
from tests.serving.loop_thread import LoopThread
from tests.serving.release_builder import build_release, png, publish_release
from tests.serving.updated_root import UpdatedRoot

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def root(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "root"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], root: pathlib.Path) -> Run:
    def run(*arguments: str, at: object = root) -> tuple[int, str, str]:
        code = main(["releases", *arguments, "--serving-root", str(at)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_list(run: Run, root: pathlib.Path) -> None:
    first = build_release(root, clock=lambda: 1_700_000_000.0)
    second = build_release(root, n=20, seed=1, parameters=IndexParameters("exact"), clock=lambda: 1_700_000_060.0)
    (root / "releases" / "broken").mkdir()
    (root / "releases" / "broken" / "release.json").write_text("{}")
    code, out, _ = run("list")
    assert code == 0
    lines = [line.split() for line in out.splitlines()]
    assert lines[0] == ["RELEASE", "CREATED", "ITEMS", "INDEX", "ENCODER", "PARENT"]
    assert lines[1] == ["*", second, "2023-11-14", "22:14:20Z", "20", "exact", "encoder/1700000000", first]
    assert lines[2] == [first, "2023-11-14", "22:13:20Z", "50", "brute_force", "encoder/1700000000", "-"]
    assert out.splitlines()[3].startswith("   broken") and "can't be read: release.json" in out
    code, out, _ = run("list", "--json")
    value = json.loads(out)
    assert [(r["release_id"], r["current"]) for r in value] == [(second, True), (first, False), ("broken", False)]
    assert value[0]["encoder"]["version"] == 1_700_000_000


def test_show(run: Run, root: pathlib.Path) -> None:
    first, second = build_release(root), build_release(root, seed=1, shards=2)
    code, out, _ = run("show")
    assert code == 0
    assert f"release     {second}\n" in out
    assert f"parent      {first}\n" in out
    assert "brute_force, 50 items in 2 shards" in out
    code, out, _ = run("show", first, "--json")
    assert code == 0
    assert out == (root / "releases" / first / "release.json").read_text()


def test_verify(run: Run, root: pathlib.Path) -> None:
    first, second = build_release(root), build_release(root, seed=1)
    assert run("verify")[:2] == (0, run("verify", second)[1])
    code, out, _ = run("verify", first, "--json")
    assert (code, json.loads(out)["release_id"], json.loads(out)["golden_recall"]) == (0, first, 1.0)
    file = next((root / "releases" / first).rglob("*.npy"))
    data = bytearray(file.read_bytes())
    data[200] ^= 1
    file.write_bytes(data)
    code, out, err = run("verify", first)
    assert (code, out) == (1, "")
    assert err.startswith("lookalike releases: refused: embeddings/shard-00000-of-00001.npy has sha256")
    assert run("verify")[0] == 0


def test_verify_from_an_object_store(run: Run, tmp_path: pathlib.Path) -> None:
    uri = f"memory://{uuid.uuid4().hex}"
    release_id = publish_release(uri, tmp_path / "work").release_id
    assert run("verify", at=uri)[0] == 0
    assert run("verify", "--cache", str(tmp_path / "cache"), at=uri)[0] == 0
    assert (tmp_path / "cache" / release_id).is_dir()
    open_store(uri).delete("")


def test_verify_asks_the_encoder(run: Run, root: pathlib.Path, loop: LoopThread) -> None:
    images = [png(0), png(1)]
    probes = [Probe(image, vector) for image, vector in zip(images, embed(images, seed=0, dimension=8), strict=True)]
    server = FakeModelServer(dimension=8)
    loop.run(server.start())
    try:
        build_release(root, probes=probes, model=MODEL, clock=lambda: 1.0)
        server.versions = {1: 0}
        code, out, err = run("verify", "--encoder", server.address)
        assert (code, err) == (0, "")
        assert f"The encoder at {server.address} is the one it was built with." in out
        server.versions = {1: 5}
        code, _, err = run("verify", "--encoder", server.address)
        assert code == 1
        assert "it is another encoder" in err
        server.versions = {2: 0}
        assert run("verify", "--encoder", server.address)[0] == 2
    finally:
        loop.run(server.stop())
    code, _, err = run("verify", "--encoder", server.address)
    assert code == 2
    assert err


def test_rollback(run: Run, root: pathlib.Path) -> None:
    first, second = build_release(root), build_release(root, seed=1)
    code, out, _ = run("rollback")
    assert (code, out) == (0, f"{first} is the served release now; before it was {second}.\n")
    assert read_current(open_store(root)) == first
    code, _, err = run("rollback")
    assert code == 1
    assert f"{first} is the first release: there is none to go back to." in err
    code, out, _ = run("rollback", second, "--json")
    assert (code, json.loads(out)) == (0, {"before": first, "release_id": second})
    assert run("rollback", second)[1] == f"{second} is the served release already.\n"


def test_rollback_to_a_parent_that_is_gone(run: Run, root: pathlib.Path) -> None:
    first, second = build_release(root), build_release(root, seed=1)
    open_store(root).delete(f"releases/{first}")
    code, _, err = run("rollback")
    assert code == 1
    assert f"{first}, on which {second} was built, was pruned or purged: name one that" in err


def test_rollback_to_a_damaged_release(run: Run, root: pathlib.Path) -> None:
    first, second = build_release(root), build_release(root, seed=1)
    next((root / "releases" / first).rglob("*.sqlite")).unlink()
    code, _, err = run("rollback", first)
    assert code == 1
    assert "refused: items/shard-00000-of-00001.sqlite is missing" in err
    assert read_current(open_store(root)) == second


def test_prune(run: Run, root: pathlib.Path) -> None:
    ids = [build_release(root, seed=i, encoder_seed=i, clock=lambda i=i: 1000.0 + i) for i in range(4)]
    code, out, _ = run("prune", "--keep", "2", "--grace-seconds", "0", "--dry-run")
    would = [f"would delete releases/{ids[i]}" for i in (1, 0)]
    assert (code, out.splitlines()) == (0, [*would, *[f"would delete encoders/encoder/{1000 + i}" for i in (0, 1)]])
    assert run("prune", "--keep", "2")[1].splitlines() == [line.replace("would delete", "deleted") for line in would]
    code, out, _ = run("prune", "--keep", "2", "--grace-seconds", "0", "--json")
    assert json.loads(out) == {
        "dry_run": False,
        "encoders": ["encoders/encoder/1000", "encoders/encoder/1001"],
        "releases": [],
        "segments": [],
        "contents": [],
        "caches": [],
        "embeddings": 0,
    }
    assert run("prune")[1] == "nothing to delete\n"


@pytest.mark.parametrize("action", [["show"], ["verify"], ["rollback"], ["prune"], ["show", "x"], ["rollback", "x"]])
def test_where_there_is_nothing(run: Run, root: pathlib.Path, action: list[str]) -> None:
    code, out, err = run(*action)
    assert (code, out) == (1, "")
    assert str(root) in err
    assert not root.exists(), "a mistyped root must not be made"


def test_an_empty_list(run: Run, root: pathlib.Path) -> None:
    assert run("list") == (0, f"{root} holds no release yet.\n", "")
    assert run("list", "--json") == (0, "[]\n", "")


def test_what_can_not_be_done_now(run: Run, root: pathlib.Path) -> None:
    build_release(root)
    with hold_lease(open_store(root), "Publisher"):
        code, _, err = run("prune")
    assert code == 2
    assert "lookalike releases: Publisher holds lease 2 for another" in err
    (root / "CURRENT").write_text("../../etc")
    code, _, err = run("show")
    assert (code, "release id must match" in err) == (2, True)


@pytest.mark.parametrize(
    "arguments", [["prune", "--keep", "0"], ["prune", "--grace-seconds", "-1"], ["show", "../../etc"]]
)
def test_wrong_arguments(run: Run, root: pathlib.Path, arguments: list[str]) -> None:
    build_release(root)
    code, _, err = run(*arguments)
    assert code == 2
    assert "must" in err


def test_help_for_a_newcomer(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    for action in ([], ["list"], ["show"], ["verify"], ["rollback"], ["prune"]):
        with pytest.raises(SystemExit) as stop:
            main(["releases", *action, "--help"])
        assert stop.value.code == 0
        assert "CURRENT" in capsys.readouterr().out


def test_as_a_process(root: pathlib.Path) -> None:
    release_id = build_release(root)
    command = [sys.executable, "-m", "serving.cli", "releases", "list", "--serving-root", str(root), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert [r["release_id"] for r in json.loads(done.stdout)] == [release_id]


def test_purge(run: Run, root: pathlib.Path, tmp_path: pathlib.Path) -> None:
    updated = UpdatedRoot(str(root), tmp_path / "work")
    updated.append(upsert("a.png", 2))
    updated.reindex()
    assert run("purges")[:2] == (0, "no purge was ever asked for\n")
    assert run("purge")[:2] == (0, "nothing to purge\n")
    [entry] = updated.writer.append([delete("a.png", purge=True)])
    code, out, _ = run("purge")
    assert code == 1
    assert out.startswith("pending  asked 20")
    assert out.endswith("a.png: the served release holds it: the next reindex publishes one without it\n")
    updated.reindex()
    assert "`lookalike releases purge` erases what is left" in run("purges")[1]
    code, out, _ = run("purge")
    assert code == 0
    assert "of 1 items: 1 releases and 0 encoders deleted, 1 segments rewritten, 1 contents and 1 cached" in out
    assert run("purge", "--json")[:2] == (0, '{\n "pending": [],\n "purged": null\n}\n')
    code, out, _ = run("purges")
    assert code == 0
    assert out.startswith("done     20")
    assert out.endswith("a.png\n")
    [done] = json.loads(run("purges", "--json")[1])["done"]
    assert done["items"] == {"a.png": list(entry.stamp)}


def test_prune_says_what_of_the_journal_it_deletes(run: Run, root: pathlib.Path, tmp_path: pathlib.Path) -> None:
    updated = UpdatedRoot(str(root), tmp_path / "work")
    updated.append(upsert("a.png", 2))
    updated.reindex()
    updated.append(delete("a.png"))
    updated.reindex()
    flags = ("prune", "--keep", "1", "--grace-seconds", "0", "--run-grace-seconds", "0")
    out = run(*flags, "--dry-run")[1]
    assert "would delete 2 segments of the journal\nwould delete 1 contents\nwould delete 1 cached embeddings\n" in out
    assert run(*flags)[1] == out.replace("would delete", "deleted")
    assert run(*flags)[1] == "nothing to delete\n"
