"""How a collection is embedded."""

import dataclasses

from pipeline.option_checks import require


@dataclasses.dataclass(frozen=True)
class EmbeddingConfig:
    """batch_size: images in a call of the encoder. threads: that a Beam worker keeps busy; 0 for as many as there are
    cores, 1 where there are as many workers on a machine as it has cores.
    """

    batch_size: int = 256
    threads: int = 0

    def __post_init__(self) -> None:
        require(1 <= self.batch_size <= 4096, f"embedding.batch_size must be in [1, 4096], got {self.batch_size}.")
        require(0 <= self.threads <= 1024, f"embedding.threads must be in [0, 1024], got {self.threads}.")
