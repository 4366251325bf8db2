"""Imports go one way: pipeline -> components -> serving.{release,images,index,storage,journal}. From the source."""

import ast
import graphlib
import pathlib
import sys
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PACKAGES = ("serving", "components", "pipeline")

# The small modules that both sides need, and all that they may hold.
SHARED = (
    "serving.release",
    "serving.images",
    "serving.index",
    "serving.scann_package",
    "serving.storage",
    "serving.journal",
)
SHARED_HOLD = {"numpy", "PIL", "scann", "fsspec"}
TENSORFLOW = {"tensorflow", "tensorflow_serving", "tf_keras", "keras", "tensorflow_transform", "tensorflow_metadata"}
BUILDERS = {"tfx", "tfx_bsl", "apache_beam", "tensorflow_model_analysis", "tensorflow_data_validation", "ml_metadata"}
CORE = ("serving.search",)
WIRE = {"grpc", "google", "grpc_health", "grpc_status", "grpc_reflection", "lookalike"}


def modules(root: pathlib.Path) -> dict[str, ast.Module]:
    """Returns every module of the packages below `root`, parsed, by its dotted name."""
    found = {}
    for package in PACKAGES:
        for file in sorted((root / package).rglob("*.py")):
            parts = file.relative_to(root).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found[name] = ast.parse(file.read_text(), str(file))
    return found


def imports(name: str, tree: ast.Module, known: dict[str, ast.Module]) -> Iterator[str]:
    """Yields the dotted names that a module imports, at its top or inside a function."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports relatively: write the whole name."
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in known else str(node.module)


def within(name: str, prefixes: tuple[str, ...]) -> bool:
    return any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes)


def violations(root: pathlib.Path) -> list[str]:
    """Returns a sentence for each import that goes the wrong way."""
    known = modules(root)
    wrong = []
    for name, tree in known.items():
        for target in imports(name, tree, known):
            if not allowed(name, target):
                wrong.append(f"{name} must not import {target}.")
    return wrong


def allowed(name: str, target: str) -> bool:
    top = target.partition(".")[0]
    if within(name, SHARED) and not shared_may_import(top, target):
        return False
    if within(name, CORE) and top in WIRE:
        return False
    if within(name, ("serving",)):
        return top not in {"components", "pipeline", *BUILDERS} and (
            top not in TENSORFLOW or within(name, ("serving.model_server",))
        )
    if within(name, ("components",)):
        return top != "pipeline" and (top != "serving" or within(target, SHARED))
    # The demo and the runner are people's clients, too; what they may use of serving is stated here.
    return top != "serving" or within(
        target, (*SHARED, "serving.client", "serving.encoders.tfserving", "serving.search.encoder")
    )


def shared_may_import(top: str, target: str) -> bool:
    return top in sys.stdlib_module_names or top in SHARED_HOLD or within(target, SHARED)


def cycles(root: pathlib.Path) -> list[str]:
    """Returns the first cycle of imports in each package, as `a -> b -> a`."""
    known = modules(root)
    found = []
    for package in PACKAGES:
        graph = {
            name: {target for target in imports(name, tree, known) if target in known and target != name}
            for name, tree in known.items()
            if within(name, (package,))
        }
        try:
            graphlib.TopologicalSorter(graph).prepare()
        except graphlib.CycleError as error:
            found.append(" -> ".join(error.args[1]))
    return found


def python_in_kubernetes(root: pathlib.Path) -> list[str]:
    """Returns what would shadow the PyPI package `kubernetes`, which TFX imports."""
    return sorted(str(file.relative_to(root)) for file in (root / "kubernetes").rglob("*.py"))


def test_imports_go_one_way() -> None:
    assert violations(ROOT) == []


def test_no_module_is_part_of_a_cycle() -> None:
    assert cycles(ROOT) == []


def test_no_python_in_kubernetes() -> None:
    assert python_in_kubernetes(ROOT) == []


def test_every_package_was_read() -> None:
    assert {name.partition(".")[0] for name in modules(ROOT)} == set(PACKAGES)


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("serving/gateway", "import tfx.v1 as tfx"),
        ("serving/gateway", "import apache_beam as beam"),
        ("serving/gateway", "from components import features"),
        ("serving/gateway", "from pipeline.config import Config"),
        ("serving/gateway", "import tensorflow as tf"),
        ("serving/gateway", "def f():\n    from tensorflow_serving.apis import predict_pb2"),
        ("serving/search/retrieval", "import grpc"),
        ("serving/release/reader", "import grpc"),
        ("serving/release/reader", "from serving import gateway"),
        ("serving/images", "import tensorflow"),
        ("components/embedder", "from serving.gateway.gateway import Gateway"),
        ("components/embedder", "from serving import gateway"),
        ("components/embedder", "from pipeline import local_runner"),
        ("pipeline/pipeline", "from serving.gateway.gateway import Gateway"),
    ],
)
def test_a_wrong_import_is_found(tmp_path: pathlib.Path, module: str, line: str) -> None:
    write(tmp_path, module, line)
    write(tmp_path, "serving/gateway" if module != "serving/gateway" else "serving/other", "")
    assert len(violations(tmp_path)) == 1


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("serving/model_server/server", "import tensorflow as tf"),
        ("serving/gateway", "import grpc\nfrom serving.release import layout"),
        ("components/embedder", "import apache_beam\nfrom serving.release.reader import open_release"),
        ("components/embedder", "from serving import images, storage"),
        ("pipeline/pipeline", "import tfx\nfrom components import features\nfrom serving.client import Client"),
        ("serving/index", "import numpy as np\nfrom scann.scann_ops.py import scann_ops_pybind"),
    ],
)
def test_a_right_import_is_not_complained_about(tmp_path: pathlib.Path, module: str, line: str) -> None:
    for shared in ("serving/release/layout", "serving/images", "serving/storage"):
        write(tmp_path, shared, "")
    write(tmp_path, module, line)
    assert violations(tmp_path) == []


def test_a_cycle_is_found(tmp_path: pathlib.Path) -> None:
    write(tmp_path, "serving/a", "from serving import b")
    write(tmp_path, "serving/b", "import serving.c")
    write(tmp_path, "serving/c", "from serving.a import x")
    assert len(cycles(tmp_path)) == 1


def test_a_cycle_through_a_later_import_is_found(tmp_path: pathlib.Path) -> None:
    write(tmp_path, "serving/a", "from serving import b")
    write(tmp_path, "serving/b", "def f():\n    from serving import a")
    assert len(cycles(tmp_path)) == 1


def test_python_in_kubernetes_is_found(tmp_path: pathlib.Path) -> None:
    write(tmp_path, "kubernetes/base/__init__", "")
    assert python_in_kubernetes(tmp_path) == ["kubernetes/base/__init__.py"]


def write(root: pathlib.Path, module: str, source: str) -> None:
    file = root / f"{module}.py"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(source + "\n")
