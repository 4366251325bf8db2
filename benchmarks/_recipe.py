"""The install steps of an image recipe, read out of its Dockerfile and run without a container engine.

Of the stage `build`: paths of the image are paths below a folder, `python` is one of this machine, and apt-get is left
out, for it would change the machine. What the last stage copies is the environment.
"""

import dataclasses
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

from benchmarks._processes import REPOSITORY

IMAGES = REPOSITORY / "kubernetes" / "images"
# Folders of the image that its steps name.
_PLACES = ("/opt/lookalike", "/src")


@dataclasses.dataclass(frozen=True)
class Step:
    """An instruction. stage: the name of its stage, empty for the last."""

    stage: str
    instruction: str
    text: str


def read_recipe(file: pathlib.Path) -> list[Step]:
    """Returns the instructions of a Dockerfile, comments left out and continued lines joined."""
    lines = [line for line in file.read_text().splitlines() if line.strip() and not line.lstrip().startswith("#")]
    steps, stage = [], ""
    for whole in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines():
        instruction, _, text = whole.partition(" ")
        if instruction == "FROM":
            stage = text.partition(" AS ")[2]
        steps.append(Step(stage, instruction, text.strip()))
    return steps


def build_arguments(steps: list[Step]) -> dict[str, str]:
    """Returns the arguments of a recipe and their defaults."""
    return dict(step.text.split("=", 1) for step in steps if step.instruction == "ARG")


def python_version(base: str) -> str:
    """Returns the CPython that a base image holds."""
    match = re.fullmatch(r"python:(\d+\.\d+)-slim-\w+@sha256:[0-9a-f]{64}", base)
    if match is None:
        raise ValueError(f"the base must be a slim Python with a digest, got {base}.")
    return match[1]


def find_python(version: str) -> str:
    """Returns a CPython of this version, or where there is none the one that runs this."""
    pyenv = sorted(pathlib.Path.home().glob(f".pyenv/versions/{version}.*/bin/python{version}"))
    for python in (shutil.which(f"python{version}"), *map(str, pyenv), f"/usr/bin/python{version}"):
        if python is None or not pathlib.Path(python).exists():
            continue
        # A shim may be there that can't do anything.
        if subprocess.run([python, "-c", "import venv, ensurepip"], capture_output=True).returncode == 0:
            return python
    return str(pathlib.Path(sys.executable).resolve())


def install(recipe: str, folder: pathlib.Path, **given: str) -> pathlib.Path:
    """Runs the install steps of kubernetes/images/RECIPE; returns the environment. Raises CalledProcessError.

    given: build arguments in place of their defaults.
    """
    steps = read_recipe(IMAGES / recipe)
    arguments = build_arguments(steps) | given
    python = find_python(python_version(arguments["BASE"]))
    environment = {
        k: v for k, v in os.environ.items() if k not in ("PYTHONDONTWRITEBYTECODE", "VIRTUAL_ENV", "PYTHONPATH")
    }
    where = folder
    for step in steps:
        if step.stage != "build":
            continue
        if step.instruction == "ARG":
            name = step.text.partition("=")[0]
            environment[name] = arguments[name]
        elif step.instruction == "ENV":
            environment |= dict(pair.split("=", 1) for pair in shlex.split(step.text))
        elif step.instruction == "WORKDIR":
            where = pathlib.Path(_place(step.text, folder))
            where.mkdir(parents=True)
        elif step.instruction == "COPY":
            _copy(step.text, where)
        elif step.instruction == "RUN" and not step.text.startswith("apt-get"):
            command = re.sub(r"\bpython -m venv\b", f"{shlex.quote(python)} -m venv", _place(step.text, folder))
            subprocess.run(["/bin/sh", "-eu", "-c", command], check=True, cwd=where, env=environment)
    return folder / "opt" / "lookalike"


def _place(text: str, folder: pathlib.Path) -> str:
    return re.sub("|".join(map(re.escape, _PLACES)), lambda match: f"{folder}{match[0]}", text)


def _copy(text: str, where: pathlib.Path) -> None:
    *sources, target = shlex.split(text)
    for source in sources:
        path = REPOSITORY / source
        if path.is_dir():
            shutil.copytree(path, where / target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            (where / target).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, where / target)


def size_mib(folder: pathlib.Path) -> float:
    """Returns the size of all files, in MiB."""
    return sum(file.lstat().st_size for file in folder.rglob("*") if file.is_file() and not file.is_symlink()) / 2**20
