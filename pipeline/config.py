"""Everything a pipeline run can be told: read once from one YAML file and flags, validated, passed whole."""

import dataclasses
import pathlib
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from pipeline.beam_options import DIRECT_ARGS, check_runner, check_steps
from pipeline.embedding_config import EmbeddingConfig
from pipeline.encoder_config import EncoderConfig
from pipeline.index_config import IndexConfig
from pipeline.kubeflow_config import KubeflowConfig
from pipeline.option_checks import ConfigError as ConfigError
from pipeline.option_checks import require
from pipeline.reindex_config import ReindexConfig
from pipeline.retention_config import RetentionConfig

SCHEDULES = ("constant", "inverse_time", "cosine")
STRATEGIES = ("", "mirrored", "multi_worker")


@dataclasses.dataclass(frozen=True)
class IngestConfig:
    """What is read. See ImageExampleGen."""

    images: str = ""
    label_from: str = ""
    span_pattern: str = ""
    eval_percent: int = 10
    max_skipped_share: float = 0.01
    max_bytes: int = 20 * 2**20
    max_pixels: int = 50_000_000
    max_side: int = 1024
    shards: int = 8

    def __post_init__(self) -> None:
        require(1 <= self.eval_percent <= 50, f"ingest.eval_percent must be in [1, 50], got {self.eval_percent}.")
        share = self.max_skipped_share
        require(0.0 <= share <= 1.0, f"ingest.max_skipped_share must be in [0, 1], got {share}.")
        require(1 <= self.shards <= 10_000, f"ingest.shards must be in [1, 10000], got {self.shards}.")
        labels = ("", "folder", "parent", "manifest")
        require(self.label_from in labels, f"ingest.label_from must be one of {labels}, got {self.label_from!r}.")


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """How it is trained. patience: epochs without a better validation loss, 0 never stops early.

    strategy: of STRATEGIES, on which devices; see pipeline.distribution. batch_size is that of all of them together.

    min_steps: a small collection is passed over more often in an epoch, until training takes that many steps in all.
    """

    epochs: int = 12
    min_steps: int = 2000
    batch_size: int = 64
    learning_rate: float = 2e-3
    schedule: str = "cosine"
    patience: int = 0
    seed: int = 20
    cache_bytes: int = 2 * 2**30
    strategy: str = ""

    def __post_init__(self) -> None:
        require(1 <= self.epochs <= 10_000, f"training.epochs must be in [1, 10000], got {self.epochs}.")
        require(0 <= self.min_steps <= 10**9, f"training.min_steps must be in [0, 10^9], got {self.min_steps}.")
        require(1 <= self.batch_size <= 65_536, f"training.batch_size must be in [1, 65536], got {self.batch_size}.")
        rate = self.learning_rate
        require(0.0 < rate <= 1.0, f"training.learning_rate must be in (0, 1], got {rate}.")
        require(self.schedule in SCHEDULES, f"training.schedule must be one of {SCHEDULES}, got {self.schedule!r}.")
        known = self.strategy in STRATEGIES
        require(known, f"training.strategy must be one of {STRATEGIES}, got {self.strategy!r}.")
        require(self.patience >= 0, f"training.patience must be at least 0, got {self.patience}.")


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """When an encoder is good enough. Tolerances are absolute differences unless the option says otherwise.

    max_mse: Evaluator's threshold on the mean squared error, pixels in [0, 1]. slice_by: features to slice it by.
    """

    max_mse: float = 0.25
    slice_by: tuple[str, ...] = ()
    pca_tolerance: float = 0.05
    served_tolerance: float = 0.02
    accept_schema_changes: bool = False

    def __post_init__(self) -> None:
        require(0.0 < self.max_mse <= 1.0, f"evaluation.max_mse must be in (0, 1], got {self.max_mse}.")
        for name in ("pca_tolerance", "served_tolerance"):
            value = getattr(self, name)
            require(0.0 <= value <= 1.0, f"evaluation.{name} must be in [0, 1], got {value}.")


@dataclasses.dataclass(frozen=True)
class PipelineConfig:
    """One run. root: where the pipeline keeps its artifacts. serving_root: where releases are published.

    beam_args: Beam's options. step_beam_args: more of them for one step, by its name.
    """

    name: str = "lookalike"
    root: str = "runs"
    serving_root: str = "runs/serving"
    model_name: str = "encoder"
    beam_args: tuple[str, ...] = DIRECT_ARGS
    step_beam_args: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    ingest: IngestConfig = dataclasses.field(default_factory=IngestConfig)
    encoder: EncoderConfig = dataclasses.field(default_factory=EncoderConfig)
    training: TrainingConfig = dataclasses.field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = dataclasses.field(default_factory=EvaluationConfig)
    embedding: EmbeddingConfig = dataclasses.field(default_factory=EmbeddingConfig)
    index: IndexConfig = dataclasses.field(default_factory=IndexConfig)
    reindex: ReindexConfig = dataclasses.field(default_factory=ReindexConfig)
    retention: RetentionConfig = dataclasses.field(default_factory=RetentionConfig)
    kubeflow: KubeflowConfig = dataclasses.field(default_factory=KubeflowConfig)

    def __post_init__(self) -> None:
        require(bool(self.name), "name must not be empty.")
        check_runner("beam_args", self.beam_args)
        check_steps(self.step_beam_args)
        shards = (self.ingest.shards, self.index.shards)
        fits = self.ingest.shards % self.index.shards == 0
        require(fits, f"index.shards must divide ingest.shards, got {shards[1]} and {shards[0]}.")


def load(path: str | None, overrides: Sequence[str] = ()) -> PipelineConfig:
    """Returns the config in the YAML file `path` (None: all defaults), changed by `overrides` (`training.epochs=3`)."""
    tree: dict[str, Any] = {}
    if path:
        loaded = yaml.safe_load(pathlib.Path(path).read_text())
        require(isinstance(loaded, dict), f"{path} must hold a mapping of options.")
        tree = loaded
    for override in overrides:
        name, equals, text = override.partition("=")
        require(bool(equals), f"an override must read option=value, got {override!r}.")
        *sections, leaf = name.split(".")
        node = tree
        for section in sections:
            node = node.setdefault(section, {})
            require(isinstance(node, dict), f"{name}: {section} is not a section.")
        node[leaf] = yaml.safe_load(text)
    return typing.cast(PipelineConfig, _build(PipelineConfig, tree, ""))


def encoder_config(tree: Mapping[str, Any]) -> EncoderConfig:
    """Returns the section `encoder` from its options by name, as `dataclasses.asdict` and JSON leave them."""
    return typing.cast(EncoderConfig, _build(EncoderConfig, tree, "encoder."))


def _build(kind: type[Any], tree: Mapping[str, Any], prefix: str) -> Any:
    hints = typing.get_type_hints(kind)
    values = {}
    for name, value in tree.items():
        where = f"{prefix}{name}"
        require(name in hints, f"unknown option {where}; there are {', '.join(prefix + hint for hint in hints)}.")
        values[name] = _convert(hints[name], value, where)
    return kind(**values)


def _convert(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        require(isinstance(value, dict), f"{where} is a section of options, got {value!r}.")
        return _build(hint, value, where + ".")
    origin = typing.get_origin(hint)
    if origin is tuple:
        require(isinstance(value, list | tuple), f"{where} must be a list, got {value!r}.")
        return tuple(_convert(typing.get_args(hint)[0], each, where) for each in value)
    if origin is types.UnionType:
        # `kind | None`, of what may be left out.
        return None if value is None else _convert(typing.get_args(hint)[0], value, where)
    if origin is not None:
        require(isinstance(value, dict), f"{where} must be a mapping, got {value!r}.")
        kind = typing.get_args(hint)[1]
        if typing.get_origin(kind) is not tuple and not (dataclasses.is_dataclass(kind) and isinstance(kind, type)):
            return value
        return {name: _convert(kind, each, f"{where}.{name}") for name, each in value.items()}
    if hint is float and isinstance(value, int | str) and not isinstance(value, bool):
        # YAML 1.1 reads 1e-3 as text.
        try:
            return float(value)
        except ValueError as error:
            raise ConfigError(f"{where} must be a number, got {value!r}.") from error
    right = isinstance(value, hint) and not (hint is int and isinstance(value, bool))
    require(right, f"{where} must be {hint.__name__}, got {value!r}.")
    return value
