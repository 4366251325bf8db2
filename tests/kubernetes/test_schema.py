"""Everything that is applied is what Kubernetes expects, in each of three versions of it."""

import json
import subprocess
from typing import Any

from tests.kubernetes.rendered import CHECKS, FOLDERS, ROOT, Object, named, render

VERSIONS = ("1.33", "1.35", "1.37")
# Not Kubernetes' own, so that nothing here knows their schema: PodMonitor is the Prometheus operator's.
UNCHECKED = {"PodMonitor"}


def faults(objects: list[Object]) -> list[str]:
    command = [str(CHECKS / "python"), str(ROOT / "tests" / "kubernetes" / "schema_faults.py"), *VERSIONS]
    done = subprocess.run(command, input=json.dumps(objects), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found: list[Any] = json.loads(done.stdout)
    return [" ".join(fault) for fault in found if not (fault[3] == "no schema" and fault[1] in UNCHECKED)]


def test_everything_fits_its_schema() -> None:
    assert FOLDERS
    objects = [thing for folder in FOLDERS for thing in render(folder)]
    for thing in objects:
        # Most differ in nothing else.
        assert isinstance(thing["metadata"].pop("namespace", ""), str)
    distinct = {json.dumps(thing, sort_keys=True) for thing in objects}
    assert faults([json.loads(text) for text in sorted(distinct)]) == []


def deployment(name: str, **changes: Any) -> Object:
    """Returns the gateway's under another name, with something of its spec changed."""
    thing = named(render("overlays/local"), "Deployment", "gateway")
    thing["metadata"]["name"] = name
    thing["spec"].update(changes)
    return thing


def test_what_does_not_fit_is_noticed() -> None:
    unknown = {**deployment("unknown"), "kind": "Gadget"}
    # Kinds of others must be listed to be let through.
    foreign = {**deployment("foreign"), "kind": "InferenceService", "apiVersion": "serving.kserve.io/v1beta1"}
    broken = [deployment("type", replicas="two"), deployment("name", strategie={}), unknown, foreign]
    found = faults([deployment("sound"), *broken])
    for version in VERSIONS:
        mine = [fault.removeprefix(f"{version} ") for fault in found if fault.startswith(version)]
        assert len(mine) == 4, mine
        assert mine[0].startswith("Deployment type spec.replicas: 'two' is not of type")
        assert mine[1].startswith("Deployment name spec: Additional properties are not allowed ('strategie'")
        assert mine[2:] == ["Gadget unknown no schema", "InferenceService foreign no schema"]
