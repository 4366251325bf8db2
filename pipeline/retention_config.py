"""How long what earlier runs and releases have left is kept."""

import dataclasses

from pipeline.option_checks import require


@dataclasses.dataclass(frozen=True)
class RetentionConfig:
    """What `lookalike retain` deletes. Whatever a kept release, or a run that may still publish, needs stays anyway.

    releases: of the newest ones. grace_seconds: younger releases and encoders stay, so that gateways can follow.
    run_hours: younger segments of the journal, contents and cached embeddings stay; longer than any run takes.
    run_days: older runs go from the pipeline's root and its metadata, but for the newest `runs`.
    """

    releases: int = 3
    grace_seconds: float = 3600.0
    run_hours: float = 24.0
    runs: int = 3
    run_days: float = 7.0

    def __post_init__(self) -> None:
        for name in ("releases", "runs"):
            value = getattr(self, name)
            require(1 <= value <= 10_000, f"retention.{name} must be in [1, 10000], got {value}.")
        for name in ("grace_seconds", "run_hours", "run_days"):
            value = getattr(self, name)
            require(0 <= value <= 10**9, f"retention.{name} must be in [0, 10^9], got {value}.")
