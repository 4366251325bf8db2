"""The image recipes: linted, and their install steps run in a fresh environment."""

import json
import pathlib
import re
import subprocess

import pytest

from benchmarks._recipe import IMAGES, build_arguments, install, python_version, read_recipe
from tests.kubernetes.rendered import CHECKS, ROOT

RECIPES = sorted(file.name for file in IMAGES.glob("*.Dockerfile"))


def hadolint(file: pathlib.Path) -> list[str]:
    done = subprocess.run([str(CHECKS / "hadolint"), "--format", "json", str(file)], capture_output=True, text=True)
    return [f"{fault['code']} {fault['message']}" for fault in json.loads(done.stdout)]


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_recipes_are_linted(recipe: str) -> None:
    assert hadolint(IMAGES / recipe) == []


def test_what_is_wrong_with_a_recipe_is_noticed(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "Dockerfile"
    file.write_text("FROM python:latest\nRUN cd /src && pip install lookalike\n")
    codes = {fault.split()[0] for fault in hadolint(file)}
    assert codes >= {"DL3007", "DL3003", "DL3013"}


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_last_stage_is_small_and_powerless(recipe: str) -> None:
    steps = read_recipe(IMAGES / recipe)
    last = [step for step in steps if step.stage == "" and step.instruction not in ("ARG", "FROM")]
    assert python_version(build_arguments(steps)["BASE"]) in ("3.10", "3.11", "3.12")
    # Nothing is installed there, and nobody is root.
    assert [step.text for step in last if step.instruction == "COPY"] == ["--from=build /opt/lookalike /opt/lookalike"]
    assert not [step for step in last if step.instruction in ("RUN", "ADD")]
    (user,) = (step.text for step in last if step.instruction == "USER")
    assert re.fullmatch(r"[1-9]\d{4}:[1-9]\d{4}", user)
    assert [step.text for step in last if step.instruction == "ENTRYPOINT"] == ['["lookalike"]']


@pytest.mark.parametrize("recipe", RECIPES)
def test_everything_installed_is_locked(recipe: str) -> None:
    installs = [
        command
        for step in read_recipe(IMAGES / recipe)
        for command in step.text.split("&&")
        if step.instruction == "RUN" and "pip install" in command
    ]
    assert len(installs) == 2
    locked, ours = installs
    assert "--require-hashes -r " in locked and locked.split()[-1].strip('"').endswith(".lock")
    assert "--no-deps --no-build-isolation ." in ours
    copied = [s.text for s in read_recipe(IMAGES / recipe) if s.instruction == "COPY" and s.text.startswith("requi")]
    locks = copied[0].split()[:-1]
    assert all("--hash=sha256:" in (ROOT / lock).read_text() for lock in locks)
    default = build_arguments(read_recipe(IMAGES / recipe)).get("LOCK", "serving")
    assert f"requirements/{default}.lock" in locks


def test_only_what_is_copied_is_sent() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    sent = {line[1:] for line in lines if line.startswith("!")}
    wanted = {
        "requirements/*.lock" if source.startswith("requirements/") else source
        for recipe in RECIPES
        for step in read_recipe(IMAGES / recipe)
        if step.instruction == "COPY" and not step.text.startswith("--from")
        for source in step.text.split()[:-1]
    }
    assert "*" in lines
    assert sent == wanted


@pytest.mark.slow
def test_the_gateway_needs_no_tensorflow(tmp_path: pathlib.Path) -> None:
    environment = install("gateway.Dockerfile", tmp_path)
    listed = """
import importlib.metadata, json, pkgutil, sys
import serving
names = sorted(d.metadata["Name"].lower() for d in importlib.metadata.distributions())
modules = [m.name for m in pkgutil.walk_packages(serving.__path__, "serving.") if ".model_server" not in m.name]
for module in modules:
    if not module.endswith("process"):
        __import__(module)
print(json.dumps({"names": names, "file": serving.__file__, "modules": sorted(sys.modules)}))
"""
    python = environment / "bin" / "python"
    # From elsewhere: not our checkout is to be imported, but what was installed.
    done = subprocess.run([str(python), "-c", listed], capture_output=True, text=True, check=True, cwd=tmp_path)
    found = json.loads(done.stdout)
    assert pathlib.Path(found["file"]).is_relative_to(environment)
    for name in ("tensorflow", "tfx", "keras", "apache-beam", "pip", "setuptools", "grpcio-tools", "pytest"):
        assert not [each for each in found["names"] if each.startswith(name)], name
        assert not [each for each in found["modules"] if each.split(".")[0] == name], name
    assert {"grpcio", "scann", "lookalike"} <= set(found["names"])
    command = [str(environment / "bin" / "lookalike"), "gateway", "--help"]
    assert "--serving-root" in subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path).stdout
