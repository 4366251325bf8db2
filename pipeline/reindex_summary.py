"""What a reindex says when it ends: a JSON object for schedulers, the same as Prometheus metrics, and an exit code."""

import dataclasses
import json
import pathlib
import time

from prometheus_client import CollectorRegistry, Gauge, push_to_gateway, write_to_textfile

EXIT_CODES = {
    "published": 0,
    "unchanged": 0,
    "failed": 1,
    "usage": 2,
    "refused": 3,
    "lease-held": 4,
    "stale": 5,
    "no-release": 6,
}
# What the counts are of: items of the collection, but for `encoded` and `cached`, which are distinct contents, and
# `duplicate_groups`, those of near-duplicates, which `grouped` items belong to.
COUNTS = (
    *("listed", "unchanged", "read", "new", "changed", "reworded", "removed", "deleted", "skipped"),
    *("upserts", "tombstones", "encoded", "cached", "items"),
    *("duplicate_groups", "grouped"),
)
_JOB = "lookalike_reindex"


@dataclasses.dataclass(frozen=True)
class ReindexSummary:
    """How a reindex ended. status: a key of EXIT_CODES. release_id: what `CURRENT` names; None where nobody looked.

    base: the release it built on. encoder_version: that it embedded with. counts: by COUNTS, of as many steps as were
    done. components: seconds of each. error: why, where it is no success.
    """

    status: str
    release_id: str | None = None
    base: str | None = None
    encoder_version: int | None = None
    counts: dict[str, int] = dataclasses.field(default_factory=dict)
    components: dict[str, float] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0
    error: str = ""
    finished: float = dataclasses.field(default_factory=time.time)

    @property
    def exit_code(self) -> int:
        """What the command returns."""
        return EXIT_CODES[self.status]

    def to_json(self) -> str:
        """Returns a line of JSON."""
        return json.dumps({**dataclasses.asdict(self), "exit_code": self.exit_code}, sort_keys=True) + "\n"

    def registry(self) -> CollectorRegistry:
        """Returns the metrics."""
        registry = CollectorRegistry()

        def gauge(name: str, text: str, value: float) -> None:
            Gauge(f"lookalike_reindex_{name}", text, registry=registry).set(value)

        gauge("finished_timestamp_seconds", "When the last reindex ended, seconds since the epoch.", self.finished)
        gauge("success", "Whether the last reindex published or found nothing to do.", float(self.exit_code == 0))
        gauge("exit_code", "The exit code of the last reindex.", self.exit_code)
        gauge("published", "Whether the last reindex published a release.", float(self.status == "published"))
        gauge("duration_seconds", "How long the last reindex took.", self.seconds)
        items = Gauge("lookalike_reindex_items", "Items of the last reindex.", ["what"], registry=registry)
        for name, count in self.counts.items():
            items.labels(name).set(count)
        steps = Gauge(
            "lookalike_reindex_step_seconds", "How long a step of the last reindex took.", ["step"], registry=registry
        )
        for name, seconds in self.components.items():
            steps.labels(name).set(seconds)
        return registry


def check_writable(file: str) -> None:
    """Raises OSError where a file can't be written: sooner than after a run of hours."""
    target = pathlib.Path(file)
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_dir():
        raise IsADirectoryError(f"{file} is a folder.")
    beside = target.with_name(f".{target.name}.tmp")
    beside.touch()
    beside.unlink()


def write_summary(
    summary: ReindexSummary, file: str | None, metrics_file: str | None, push_gateway: str | None
) -> None:
    """Writes the summary to `file`, its metrics to `metrics_file` (each appears whole), and pushes them.

    metrics_file: for node_exporter's textfile collector, `*.prom`. push_gateway: `host:port`. Raises OSError.
    """
    if file:
        target = pathlib.Path(file)
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = target.with_name(f".{target.name}.tmp")
        beside.write_text(summary.to_json())
        beside.replace(target)
    if metrics_file:
        pathlib.Path(metrics_file).parent.mkdir(parents=True, exist_ok=True)
        write_to_textfile(metrics_file, summary.registry())
    if push_gateway:
        push_to_gateway(push_gateway, job=_JOB, registry=summary.registry())
