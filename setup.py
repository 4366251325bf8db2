"""Installs Lookalike and generates its protobuf stubs with the environment's own grpcio-tools."""

import pathlib
import sysconfig

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = pathlib.Path(__file__).parent
PROTOS = ROOT / "serving" / "protos"


def generate_stubs(target: pathlib.Path) -> None:
    """Writes `lookalike/**/*_pb2*.py` for every proto under `serving/protos` into `target`."""
    import grpc_tools
    from grpc_tools import protoc

    target.mkdir(parents=True, exist_ok=True)
    well_known = pathlib.Path(grpc_tools.__file__).parent / "_proto"
    for proto in sorted(PROTOS.rglob("*.proto")):
        outputs = [f"--python_out={target}", f"--grpc_python_out={target}"]
        status = protoc.main(["protoc", f"-I{PROTOS}", f"-I{well_known}", *outputs, str(proto)])
        if status:
            raise SystemExit(f"protoc failed on {proto.relative_to(ROOT)} with status {status}")


class BuildPy(build_py):
    """Generates the stubs beside the code: in the wheel, or for an editable install in the environment itself.

    The two environments hold different protobuf versions, so one checkout can't hold the stubs of both.
    """

    def run(self) -> None:
        super().run()
        editable = self.editable_mode
        generate_stubs(pathlib.Path(sysconfig.get_paths()["purelib"] if editable else self.build_lib))


setup(
    name="lookalike",
    version="0.1.0",
    description="Content-based image retrieval: from a folder of images to a service that finds look-alikes",
    license="Apache-2.0",
    python_requires=">=3.10,<3.14",
    packages=find_packages(include=["components*", "pipeline*", "serving*"]),
    package_data={"serving": ["protos/**/*.proto"]},
    install_requires=["fsspec", "grpcio", "numpy", "pillow", "protobuf", "pyyaml"],
    extras_require={
        "client": ["grpcio-health-checking", "googleapis-common-protos"],
        "serving": ["scann", "grpcio-health-checking", "grpcio-reflection", "grpcio-status", "prometheus-client"],
        "tracing": ["opentelemetry-api", "opentelemetry-sdk", "opentelemetry-exporter-otlp-proto-grpc"],
        "pipeline": [
            "tfx==1.16.0; python_version < '3.11'",
            "tfx==1.21.0; python_version >= '3.11'",
            "scann==1.3.2; python_version < '3.11'",
            "scann==1.4.2; python_version >= '3.11'",
            "tensorflow-serving-api",
            "grpcio-health-checking",
            "matplotlib",
        ],
    },
    entry_points={
        "console_scripts": ["lookalike = serving.cli:main"],
        # One entry per subcommand; the extra names the environment where it is at home. Each module has
        # HELP, add_arguments(parser) and run(arguments) -> exit code, and imports nothing heavy at import.
        "lookalike.commands": [
            "run = pipeline.commands.run [pipeline]",
            "reindex = pipeline.commands.reindex [pipeline]",
            "compile = pipeline.commands.compile [pipeline]",
            "submit = pipeline.commands.submit [pipeline]",
            "schedule = pipeline.commands.schedule [pipeline]",
            "demo = pipeline.commands.demo [pipeline]",
            "serve = pipeline.commands.serve [pipeline]",
            "workers = pipeline.commands.workers [pipeline]",
            "model-server = serving.model_server.command [pipeline]",
            "gateway = serving.commands.gateway [serving]",
            "health = serving.commands.health [client]",
            "query = serving.commands.query [client]",
            "upsert = serving.commands.upsert [client]",
            "delete = serving.commands.delete [client]",
            "retain = pipeline.commands.retain [pipeline]",
            "releases = serving.commands.releases [client]",
            "backup = serving.commands.backup [client]",
            "restore = serving.commands.restore [client]",
        ],
    },
    cmdclass={"build_py": BuildPy},
)
