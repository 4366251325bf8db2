"""The features of an item's tf.Example: the only place that spells their names."""

IMAGE = "image"  # bytes: the canonical image, JPEG or PNG
ITEM_ID = "item_id"  # bytes: relative path, or the manifest's id
SHA256 = "sha256"  # bytes: of the canonical image, 64 hex digits
URI = "uri"  # bytes: where the original lies
WIDTH = "width"  # int64: pixels
HEIGHT = "height"  # int64: pixels
LABEL = "label"  # bytes: only where asked for; training never reads it

_ATTRIBUTE = "attribute/"


def attribute_feature(name: str) -> str:
    """Returns the feature that holds an item's attribute `name`: int64, float or bytes."""
    return _ATTRIBUTE + name


def attribute_name(feature: str) -> str | None:
    """Returns the attribute that a feature holds, or None where it holds something else."""
    return feature.removeprefix(_ATTRIBUTE) if feature.startswith(_ATTRIBUTE) else None
