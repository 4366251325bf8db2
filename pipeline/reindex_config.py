"""What a reindex can be told, beside the options of the run that made the encoder."""

import dataclasses

from pipeline.option_checks import require


@dataclasses.dataclass(frozen=True)
class ReindexConfig:
    """How `lookalike reindex` keeps a release true.

    encoder_version: of the model in the serving root; 0 for the one that the current release names. max_removed_share:
    of the current items, in [0, 1]: where more are gone, the run is refused. rebuild: whether to build an index also
    where nothing has changed. lease_seconds: how long a reindex that shows no life keeps others waiting. keep_runs:
    whose artifacts stay.
    """

    encoder_version: int = 0
    max_removed_share: float = 0.5
    rebuild: bool = False
    lease_seconds: float = 300.0
    keep_runs: int = 2

    def __post_init__(self) -> None:
        version = self.encoder_version
        require(0 <= version < 2**63, f"reindex.encoder_version must be in [0, 2^63), got {version}.")
        share = self.max_removed_share
        require(0.0 <= share <= 1.0, f"reindex.max_removed_share must be in [0, 1], got {share}.")
        seconds = self.lease_seconds
        require(1.0 <= seconds <= 86_400.0, f"reindex.lease_seconds must be in [1, 86400], got {seconds}.")
        require(1 <= self.keep_runs <= 1000, f"reindex.keep_runs must be in [1, 1000], got {self.keep_runs}.")
