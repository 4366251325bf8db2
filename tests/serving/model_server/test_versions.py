import pathlib

import pytest

from serving.model_server.versions import (
    All,
    Latest,
    Load,
    Snapshot,
    Specific,
    State,
    Unload,
    aspired_versions,
    list_versions,
    next_action,
)


def test_versions_are_plain_integers(tmp_path):
    for name in ("1", "0002", "9223372036854775807", "9223372036854775808", "v3", "4.tmp", ".5", "-6", "+7", "٨", " 9"):
        (tmp_path / name).mkdir()
    (tmp_path / "10").write_text("a file")
    assert list_versions(tmp_path) == {
        1: tmp_path / "1",
        2: tmp_path / "0002",
        2**63 - 1: tmp_path / "9223372036854775807",
    }


def test_two_names_of_one_version(tmp_path, caplog):
    for name in ("2", "0002"):
        (tmp_path / name).mkdir()
    assert list_versions(tmp_path) == {2: tmp_path / "2"}
    assert "same version" in caplog.text


def test_a_base_path_that_cannot_be_read():
    with pytest.raises(OSError):
        list_versions(pathlib.Path("/nowhere/at/all"))


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (All(), {1, 2, 10}),
        (Latest(1), {10}),
        (Latest(2), {2, 10}),
        (Latest(7), {1, 2, 10}),
        (Specific(frozenset({1, 3})), {1}),
    ],
)
def test_policies(policy, expected):
    assert aspired_versions(policy, [10, 1, 2]) == expected
    assert aspired_versions(policy, []) == set()


def snapshot(version, state, aspired=True, due=True):
    return Snapshot(version, State[state], aspired, due)


@pytest.mark.parametrize(
    ("versions", "expected"),
    [
        ([], None),
        ([snapshot(1, "AVAILABLE")], None),
        # The largest first.
        ([snapshot(1, "START"), snapshot(2, "START")], Load(2)),
        # Load before unload.
        ([snapshot(1, "AVAILABLE", False), snapshot(2, "START")], Load(2)),
        ([snapshot(1, "AVAILABLE", False), snapshot(2, "AVAILABLE")], Unload(1)),
        # A version that failed replaces nothing.
        ([snapshot(1, "AVAILABLE", False), snapshot(2, "END")], None),
        # A failed attempt waits for its time, and lets the others go first.
        ([snapshot(1, "AVAILABLE", False), snapshot(2, "LOADING", due=False)], None),
        ([snapshot(1, "START"), snapshot(2, "LOADING", due=False)], Load(1)),
        ([snapshot(1, "START"), snapshot(2, "LOADING")], Load(2)),
        # Nothing is wanted: the folder was emptied, or the model left the configuration.
        ([snapshot(1, "AVAILABLE", False), snapshot(2, "AVAILABLE", False)], Unload(1)),
        ([snapshot(2, "AVAILABLE", False)], Unload(2)),
        # One old version is enough to stay available with.
        ([snapshot(1, "AVAILABLE", False), snapshot(2, "AVAILABLE", False), snapshot(3, "START")], Unload(1)),
        ([snapshot(1, "UNLOADING", False)], None),
    ],
)
def test_next_action(versions, expected):
    assert next_action(versions) == expected
