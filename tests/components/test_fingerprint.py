import os
import pathlib
import subprocess
import sys

from components.fingerprint import code_fingerprint, fingerprint


def write_sources(root: pathlib.Path) -> pathlib.Path:
    (root / "a" / "inner").mkdir(parents=True)
    (root / "a" / "one.py").write_text("x = 1\n")
    (root / "a" / "inner" / "two.proto").write_text("syntax\n")
    return root


def test_the_same_sources_have_the_same_fingerprint_wherever_they_lie(tmp_path):
    first, second = write_sources(tmp_path / "first"), write_sources(tmp_path / "second" / "deeper")
    assert fingerprint(first, ["a"]) == fingerprint(second, ["a"])


def test_a_change_of_content_name_or_place_changes_it(tmp_path):
    root = write_sources(tmp_path)
    seen = {fingerprint(root, ["a"])}
    (root / "a" / "one.py").write_text("x = 2\n")
    seen.add(fingerprint(root, ["a"]))
    (root / "a" / "one.py").rename(root / "a" / "uno.py")
    seen.add(fingerprint(root, ["a"]))
    (root / "a" / "uno.py").rename(root / "a" / "inner" / "uno.py")
    seen.add(fingerprint(root, ["a"]))
    assert len(seen) == 4


def test_what_is_no_source_does_not_count(tmp_path):
    root = write_sources(tmp_path)
    before = fingerprint(root, ["a"])
    (root / "a" / "__pycache__").mkdir()
    (root / "a" / "__pycache__" / "one.cpython-310.pyc").write_bytes(b"\0")
    (root / "a" / "notes.md").write_text("notes")
    (root / "b").mkdir()
    (root / "b" / "other.py").write_text("")
    assert fingerprint(root, ["a"]) == before


def test_another_process_in_another_folder_agrees(tmp_path):
    command = "from components.fingerprint import code_fingerprint; import sys; sys.stdout.write(code_fingerprint())"
    other = subprocess.run(
        [sys.executable, "-c", command],
        cwd=tmp_path,
        env={**os.environ, "PYTHONHASHSEED": "7"},
        capture_output=True,
        check=True,
    )
    assert other.stdout.decode() == code_fingerprint()
