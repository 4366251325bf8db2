import importlib.metadata

import pytest

from serving import cli


def test_help_lists_every_command(capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    names = {entry.name for entry in importlib.metadata.entry_points(group=cli.GROUP)}
    assert {"run", "demo", "model-server", "gateway", "query", "releases"} <= names
    assert all(name in shown for name in names)


@pytest.mark.parametrize("command", ["run", "model-server"])
def test_a_command_of_the_other_environment_says_where_it_is(capsys, command):
    assert cli.main([command, "--images", "x", "y"]) == 2
    assert f"is at home in the pipeline environment: .venv/pipeline/bin/lookalike {command}" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["gateway", "query", "releases"])
def test_every_command_explains_itself(capsys, command):
    with pytest.raises(SystemExit) as stopped:
        cli.main([command, "--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    assert f"lookalike {command}" in shown and len(shown.splitlines()) > 8


def test_an_unknown_flag_is_refused(capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["query", "--item-id", "x", "--nonsense"])
    assert stopped.value.code == 2
    assert "unrecognized arguments: --nonsense" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "flag"), [(["query", "--item-id", "x"], "--k"), (["releases", "list", "--serving-root", "x"], "--js")]
)
def test_a_flag_is_not_taken_for_a_longer_one(capsys, arguments, flag):
    with pytest.raises(SystemExit) as stopped:
        cli.main([*arguments, flag, "3"])
    assert stopped.value.code == 2
    assert f"unrecognized arguments: {flag}" in capsys.readouterr().err
