"""What a container would do with its arguments: the flags and files of TF Serving and of our own commands."""

import argparse
import contextlib
import functools
import importlib.metadata
import io
import pathlib
import re
import shlex
import subprocess
import sys
import tempfile
from typing import Any

from google.protobuf import descriptor_pb2, message_factory, text_format
from tensorflow_serving.config import model_server_config_pb2

from tests.kubernetes.rendered import Object, Workload
from tests.kubernetes.tfserving_flags import BOOLEAN, FLAGS

_PROTO = pathlib.Path(__file__).parent / "protos" / "serving_config.proto"
_TFSERVING = "/usr/bin/tensorflow_model_server"


def command_of(container: Object) -> list[str]:
    """Returns command and arguments; the image's entry point is `lookalike` where nothing else is said."""
    return [*container.get("command", ["lookalike"]), *container.get("args", [])]


def is_tfserving(container: Object) -> bool:
    """Returns whether it runs TF Serving; else it is ours."""
    return command_of(container)[0] == _TFSERVING


def is_gateway(container: Object) -> bool:
    """Returns whether it runs a gateway, be it a leaf."""
    return command_of(container)[:2] == ["lookalike", "gateway"]


def tfserving_flags(container: Object) -> dict[str, str]:
    """Returns TF Serving's flags and their values."""
    flags = {}
    for argument in command_of(container)[1:]:
        name, equals, value = argument.removeprefix("--").partition("=")
        flags[name] = value if equals else "true"
    return flags


def tfserving_faults(container: Object) -> list[str]:
    """Returns what TF Serving of the image's version would not understand."""
    version = re.search(r":(\d+)\.(\d+)\.(\d+)", container["image"])
    if version is None:
        return [f"{container['image']} names no version."]
    numbers = tuple(int(number) for number in version.groups())
    faults = [f"{argument!r} is no flag." for argument in command_of(container)[1:] if not argument.startswith("--")]
    for name, value in tfserving_flags(container).items():
        since = FLAGS.get(name)
        if since is None or since > numbers:
            faults.append(f"TF Serving {version[0][1:]} has no flag --{name}.")
        elif name in BOOLEAN and value not in ("true", "false"):
            faults.append(f"--{name} is true or false, not {value!r}.")
    return faults


def parse_command(command: list[str]) -> tuple[argparse.Namespace | None, str]:
    """Returns what our own command line makes of it, or None and what it says."""
    entries = {entry.name: entry for entry in importlib.metadata.entry_points(group="lookalike.commands")}
    if command[0] != "lookalike" or len(command) < 2 or command[1] not in entries:
        return None, f"there is no command {shlex.join(command[:2])}."
    module = entries[command[1]].load()
    parser = argparse.ArgumentParser(prog=f"lookalike {command[1]}", exit_on_error=False)
    module.add_arguments(parser)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return parser.parse_args(command[2:]), ""
    except (argparse.ArgumentError, SystemExit) as error:
        return None, said.getvalue() or str(error)


def mounted_file(workload: Workload, container: Object, objects: list[Object], path: str) -> str | None:
    """Returns what a container would read at `path`, of a ConfigMap; None where there is no such file."""
    volumes = {volume["name"]: volume for volume in workload.spec.get("volumes", [])}
    for mount in container.get("volumeMounts", []):
        folder, _, file = path.rpartition("/")
        config = volumes[mount["name"]].get("configMap")
        if mount["mountPath"] == folder and config is not None:
            for thing in objects:
                if thing["kind"] == "ConfigMap" and thing["metadata"]["name"] == config["name"]:
                    text: str | None = thing["data"].get(file)
                    return text
    return None


def parse_proto(name: str, text: str) -> Any:
    """Returns a TF Serving configuration file as its message; raises text_format.ParseError."""
    if name == "ModelServerConfig":
        return text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
    return text_format.Parse(text, _messages()[f"lookalike.tests.tfserving.{name}"]())


@functools.cache
def _messages() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        target = pathlib.Path(folder) / "set"
        flags = [f"-I{_PROTO.parent}", f"--descriptor_set_out={target}", "--include_imports", _PROTO.name]
        # A process of its own: with its old setuptools, importing it warns.
        subprocess.run([sys.executable, "-m", "grpc_tools.protoc", *flags], check=True, capture_output=True)
        files = descriptor_pb2.FileDescriptorSet.FromString(target.read_bytes())
    return dict(message_factory.GetMessages(list(files.file)))
