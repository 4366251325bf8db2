"""The processes of the rendered manifests, restarted, upgraded and rolled back while queries come."""

import pathlib

import pytest

from benchmarks._drill import drill
from benchmarks._rendered import Manifests, Pace, gateway_command, model_server_command
from benchmarks._results import digits
from benchmarks.drill import PACE, goals_of, two_generations


@pytest.mark.slow
def test_no_query_fails(tmp_path: pathlib.Path) -> None:
    generations = two_generations(tmp_path / "generations", digits(tmp_path / "digits"), 400)
    found = drill(tmp_path / "drill", generations, restarts=4, rate=20.0, pace=PACE)
    assert [(goal.name, goal.value) for goal in goals_of(found, 4) if not goal.met] == [], found
    assert found.queries > 200 and found.checked == found.queries


def test_the_manifests_flags_are_kept(tmp_path: pathlib.Path) -> None:
    manifests, root = Manifests("overlays/staging"), tmp_path / "root"
    command = gateway_command(manifests, tmp_path, root=root, encoder="ipv4:127.0.0.1:1", pace=Pace(faster=10.0))
    assert command[1:] == ["gateway", f"--config={tmp_path}/gateway.yaml"]
    options = (tmp_path / "gateway.yaml").read_text()
    assert "drain_seconds: 2.0" in options and "max_age: 60.0" in options and f"serving_root: {root}" in options
    command, missing = model_server_command(manifests, tmp_path, root=root)
    assert f'base_path: "{root}/encoders/encoder"' in (tmp_path / "models.config").read_text()
    assert "--poll-seconds 1" in " ".join(command) and "--max-batch-size 256" in " ".join(command)
    assert "--enable_profiler" in missing and "--model_config_file" not in missing
