"""What checkov thinks of everything that is applied."""

import json
import os
import pathlib
import subprocess
from typing import Any

import pytest
import yaml

from tests.kubernetes.rendered import CHECKS, FOLDERS, named, render

pytestmark = pytest.mark.slow
EXPLAINED: dict[str, dict[str, Any]] = yaml.safe_load(pathlib.Path(__file__).with_name("checkov.yaml").read_text())
# A manifest with faults of old standing: checkov must be awake.
BROKEN = "broken"


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """Returns of each folder the failed checks and what failed."""
    folder = tmp_path_factory.mktemp("rendered")
    files = {name.replace("/", "-"): name for name in FOLDERS}
    for file, name in files.items():
        (folder / f"{file}.yaml").write_text(yaml.dump_all(render(name), Dumper=yaml.CSafeDumper))
    broken = named(render("overlays/local"), "Deployment", "gateway")
    container = broken["spec"]["template"]["spec"]["containers"][0]
    container["securityContext"] = {"privileged": True}
    del container["resources"], container["livenessProbe"]
    (folder / f"{BROKEN}.yaml").write_text(yaml.safe_dump(broken))
    command = [str(CHECKS / "checkov"), "-d", str(folder), "--framework", "kubernetes", "--skip-download"]
    # Whoever looks for the network finds a closed door.
    nowhere = {"HTTP_PROXY": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9"}
    done = subprocess.run(
        [*command, "--compact", "--quiet", "--output", "json"],
        capture_output=True,
        text=True,
        env={**os.environ, **nowhere},
    )
    report = json.loads(done.stdout)
    assert report["summary"]["parsing_errors"] == 0 and report["summary"]["passed"] > 500
    failed: dict[str, dict[str, str]] = {name: {} for name in (*FOLDERS, BROKEN)}
    for check in report["results"]["failed_checks"]:
        file = pathlib.Path(check["file_path"]).stem
        failed[files.get(file, file)][check["check_id"]] = f"{check['check_name']}: {check['resource']}"
    return failed


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_failure_is_unexplained(found: dict[str, dict[str, str]], folder: str) -> None:
    allowed = {check for check, about in EXPLAINED.items() if folder in about["only"]}
    assert {check: text for check, text in found[folder].items() if check not in allowed} == {}


def test_every_explanation_is_needed(found: dict[str, dict[str, str]]) -> None:
    for check, about in EXPLAINED.items():
        assert about["reason"]
        assert [folder for folder in FOLDERS if check in found[folder]] == about["only"], check


def test_faults_are_found(found: dict[str, dict[str, str]]) -> None:
    # Privileged, may escalate, no memory limit, no liveness probe, root file system writable.
    assert found[BROKEN].keys() >= {"CKV_K8S_16", "CKV_K8S_20", "CKV_K8S_13", "CKV_K8S_8", "CKV_K8S_22"}
