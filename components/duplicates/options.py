"""When two images count as near-duplicates."""

import dataclasses
import json

from components.duplicates.perceptual_hash import BITS


@dataclasses.dataclass(frozen=True)
class DuplicateOptions:
    """Two contents are near-duplicates where both hold.

    hamming: their perceptual hashes differ in at most so many of 64 bits. cosine: that of their embeddings is at least
    this, in [-1, 1]. enabled: whether groups are looked for at all.
    """

    enabled: bool = True
    hamming: int = 10
    cosine: float = 0.9

    def __post_init__(self) -> None:
        if not isinstance(self.enabled, bool):
            raise ValueError(f"duplicates.enabled must be true or false, got {self.enabled!r}.")
        if not isinstance(self.hamming, int) or isinstance(self.hamming, bool) or not 0 <= self.hamming < BITS:
            raise ValueError(f"duplicates.hamming must be a whole number in [0, {BITS}), got {self.hamming!r}.")
        if not -1 <= self.cosine <= 1:
            raise ValueError(f"duplicates.cosine must be in [-1, 1], got {self.cosine}.")

    def to_json(self) -> str:
        """Returns a JSON object."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "DuplicateOptions":
        """Returns the options in a JSON object, the defaults for those that it leaves out, or for nothing at all."""
        value = json.loads(text or "{}")
        if not isinstance(value, dict):
            raise ValueError(f"duplicates must be a JSON object, got {text!r}.")
        unknown = sorted(value.keys() - {field.name for field in dataclasses.fields(cls)})
        if unknown:
            raise ValueError(f"unknown options of duplicates: {', '.join(unknown)}.")
        return cls(**value)
