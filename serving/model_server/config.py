"""What to serve: the models, from flags or from TF Serving's own ModelServerConfig."""

import dataclasses
import pathlib

from google.protobuf import text_format
from tensorflow_serving.config import file_system_storage_path_source_pb2, model_server_config_pb2

from serving.model_server.errors import invalid_argument
from serving.model_server.versions import All, Latest, Policy, Specific

_PLATFORM = "tensorflow"


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """One model. base_path: its children are versions. labels: names for versions that requests may ask for."""

    name: str
    base_path: pathlib.Path
    policy: Policy = dataclasses.field(default_factory=Latest)
    labels: tuple[tuple[str, int], ...] = ()

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("a model needs a name.")
        if not self.base_path.is_absolute():
            # TF Serving's text.
            raise ValueError(
                f"Expected model {self.name} to have an absolute path or URI; got base_path()={self.base_path}"
            )


@dataclasses.dataclass(frozen=True)
class LoadOptions:
    """How models are found and loaded.

    poll_seconds: between two looks at the base paths; 0 looks once. retries: after the first attempt, retry_seconds
    apart. warmup: whether a version answers its recorded requests before it is available.
    labels_for_unavailable: whether a new label may point at a version that isn't loaded (yet).
    """

    poll_seconds: float = 1.0
    retries: int = 5
    retry_seconds: float = 60.0
    warmup: bool = True
    labels_for_unavailable: bool = False

    def __post_init__(self) -> None:
        for field in ("poll_seconds", "retries", "retry_seconds"):
            if getattr(self, field) < 0:
                raise ValueError(f"{field} must be at least 0, got {getattr(self, field)}.")


def single_model(name: str, base_path: pathlib.Path) -> tuple[ModelConfig, ...]:
    """Returns the configuration for one model all of whose versions are served (a release names its version)."""
    return (ModelConfig(name, base_path.absolute(), All()),)


def read_config_file(path: pathlib.Path) -> tuple[ModelConfig, ...]:
    """Returns the models in a ModelServerConfig in text format: what TF Serving's `--model_config_file` names.

    Raises ValueError where the file isn't one.
    """
    try:
        proto = text_format.Parse(path.read_text(), model_server_config_pb2.ModelServerConfig())
    except text_format.ParseError as error:
        raise ValueError(f"{path} is not a ModelServerConfig in text format: {error}") from error
    return from_proto(proto.model_config_list)


def from_proto(models: model_server_config_pb2.ModelConfigList) -> tuple[ModelConfig, ...]:
    """Returns the models of a ModelConfigList; raises INVALID_ARGUMENT, in TF Serving's words, where one is illegal."""
    configs: dict[str, ModelConfig] = {}
    for model in models.config:
        if model.name in configs:
            raise invalid_argument(f"Illegal to list model {model.name} multiple times in config list")
        _check_platform(model)
        labels = tuple(sorted(model.version_labels.items()))
        try:
            config = ModelConfig(model.name, pathlib.Path(model.base_path), _policy(model.model_version_policy), labels)
        except ValueError as error:
            raise invalid_argument(str(error)) from error
        configs[model.name] = config
    return tuple(configs.values())


def _check_platform(model: model_server_config_pb2.ModelConfig) -> None:
    platform = model.model_platform
    if model.model_type:
        if platform:
            raise invalid_argument(
                "Illegal setting both ModelServerConfig::model_type (deprecated) and ModelServerConfig::model_platform."
            )
        platform = _PLATFORM if model.model_type == model_server_config_pb2.TENSORFLOW else "other"
    if not platform:
        raise invalid_argument(
            "Illegal setting neither ModelServerConfig::model_type (deprecated) nor ModelServerConfig::model_platform."
        )
    if platform != _PLATFORM:
        raise invalid_argument(f"Model {model.name} requests unsupported platform {platform}")


def _policy(
    policy: file_system_storage_path_source_pb2.FileSystemStoragePathSourceConfig.ServableVersionPolicy,
) -> Policy:
    match policy.WhichOneof("policy_choice"):
        case "all":
            return All()
        case "specific":
            return Specific(frozenset(policy.specific.versions))
        case _:
            return Latest(max(policy.latest.num_versions, 1))
