"""Changes for the tests of the journal and of what is made of it."""

import hashlib
from typing import Any

import numpy as np

from serving.journal.entry import Tombstone, Upsert
from tests.serving.release_builder import png


def upsert(item_id: str, seed: int = 0, **options: Any) -> Upsert:
    """Returns an upsert of the picture of that seed. options: other fields."""
    image = png(seed)
    fields = {
        "image": image,
        "sha256": hashlib.sha256(image).hexdigest(),
        "width": 16,
        "height": 16,
        "uri": f"upsert:{item_id}",
        "attributes": {"label": str(seed), "number": seed, "half": seed / 2, "even": seed % 2 == 0},
        "embedding": np.full(4, seed, np.float32),
        "encoder_digest": "e" * 64,
        **options,
    }
    return Upsert(item_id, **fields)


def delete(item_id: str, *, purge: bool = False) -> Tombstone:
    """Returns a delete."""
    return Tombstone(item_id, purge)
