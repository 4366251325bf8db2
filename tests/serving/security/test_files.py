import os
import pathlib

import pytest

from serving.security.files import Fresh


def test_is_made_again_when_a_file_changes_and_only_then(tmp_path: pathlib.Path) -> None:
    file, made = tmp_path / "f", []
    file.write_text("1")

    def make() -> int:
        made.append(1)
        return int(file.read_text())

    fresh = Fresh([str(file)], make)
    assert (fresh.get(), fresh.get(), fresh.changed(), len(made)) == (1, 1, None, 1)
    file.write_text("22")
    assert fresh.changed() == 22
    assert (fresh.changed(), fresh.get(), len(made)) == (None, 22, 2)


def test_sees_a_link_that_points_elsewhere(tmp_path: pathlib.Path) -> None:
    # This is how Kubernetes replaces what is mounted: sizes and times may stay as they are.
    for name, text in (("a", "1"), ("b", "2")):
        (tmp_path / name).write_text(text)
        os.utime(tmp_path / name, ns=(0, 0))
    link = tmp_path / "link"
    link.symlink_to("a")
    fresh = Fresh([str(link)], lambda: link.read_text())
    (tmp_path / "new").symlink_to("b")
    (tmp_path / "new").replace(link)
    assert fresh.get() == "2"


def test_what_can_not_be_used_does_not_replace_what_could(tmp_path: pathlib.Path) -> None:
    file, failures = tmp_path / "f", []
    file.write_text("1")
    fresh = Fresh([str(file)], lambda: int(file.read_text()), failed=failures.append)
    file.write_text("no number")
    assert [fresh.get() for _ in range(3)] == [1, 1, 1]
    assert len(failures) == 1, "said once"
    file.unlink()
    assert fresh.get() == 1
    assert len(failures) == 2
    file.write_text("333")
    assert fresh.get() == 333


def test_at_first_it_must_be_usable(tmp_path: pathlib.Path) -> None:
    with pytest.raises(FileNotFoundError):
        Fresh([str(tmp_path / "none")], lambda: (tmp_path / "none").read_text())
