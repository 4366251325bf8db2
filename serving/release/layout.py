"""Where everything lies in a serving root: the only place that spells its paths."""

import hashlib
import re

CURRENT = "CURRENT"
LEASE = "LEASE"
REINDEX = "REINDEX"  # the lease of whoever reindexes
MANIFEST = "release.json"
ENCODERS = "encoders"
RELEASES = "releases"
JOURNAL = "journal"
CONTENTS = "contents"
PURGES = "purges"
CACHES = "embeddings-cache"
# In a release: every live upsert and tombstone up to its watermark.
UPDATES_STATE = "updates/state.sqlite"
ENCODER_INFO = "assets.extra/lookalike_encoder.json"
# Without it there is no model: on an object store it is put last, so an encoder that has it is whole.
SAVED_MODEL = "saved_model.pb"

_RELEASE_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,127}")
_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_WRITER_ID = re.compile(r"[0-9a-f]{32}")
_SEGMENT = re.compile(rf"{JOURNAL}/([0-9a-f]{{32}})/([0-9]{{20}})\.segment")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def check_release_id(release_id: str) -> str:
    """Returns `release_id`; raises ValueError where it could name anything but a folder under `releases/`."""
    if not _RELEASE_ID.fullmatch(release_id):
        raise ValueError(f"release id must match {_RELEASE_ID.pattern}, got {release_id!r}.")
    return release_id


def model_folder(model: str) -> str:
    """Returns TF Serving's base path of `model`: its children are versions."""
    if not _MODEL.fullmatch(model):
        raise ValueError(f"model name must match {_MODEL.pattern}, got {model!r}.")
    return f"{ENCODERS}/{model}"


def encoder_folder(model: str, version: int) -> str:
    """Returns the folder of one complete encoder."""
    if not 0 < version < 2**63:
        raise ValueError(f"encoder version must be in [1, 2^63), got {version}.")
    return f"{model_folder(model)}/{version}"


def release_folder(release_id: str) -> str:
    """Returns the folder of one release."""
    return f"{RELEASES}/{check_release_id(release_id)}"


def is_writer_id(name: str) -> bool:
    """Returns whether `name` is that of a writer's folder in the journal."""
    return _WRITER_ID.fullmatch(name) is not None


def check_writer_id(writer_id: str) -> str:
    """Returns `writer_id`; raises ValueError where it is not 32 hex digits."""
    if not is_writer_id(writer_id):
        raise ValueError(f"writer id must match {_WRITER_ID.pattern}, got {writer_id!r}.")
    return writer_id


def writer_folder(writer_id: str) -> str:
    """Returns the folder of one writer's segments."""
    return f"{JOURNAL}/{check_writer_id(writer_id)}"


def segment_file(writer_id: str, seq: int) -> str:
    """Returns the file of one segment. seq: from 1 on."""
    if not 0 < seq < 10**20:
        raise ValueError(f"seq must be in [1, 10^20), got {seq}.")
    return f"{writer_folder(writer_id)}/{seq:020d}.segment"


def parse_segment(path: str) -> tuple[str, int] | None:
    """Returns the writer and seq of the segment at `path`, or None where it is something else."""
    match = _SEGMENT.fullmatch(path)
    return (match[1], int(match[2])) if match else None


def purge_file(purge_id: str) -> str:
    """Returns the file that says what a purge has erased."""
    return f"{PURGES}/{check_release_id(purge_id)}.json"


def is_sha256(name: str) -> bool:
    """Returns whether `name` is a sha256 in hex."""
    return _SHA256.fullmatch(name) is not None


def content_file(sha256: str) -> str:
    """Returns the file of canonical bytes that a release's updates name."""
    if not is_sha256(sha256):
        raise ValueError(f"sha256 must match {_SHA256.pattern}, got {sha256!r}.")
    return f"{CONTENTS}/{sha256[:2]}/{sha256}"


def cache_folder(encoder_digest: str) -> str:
    """Returns the folder of the embeddings that the encoder of this digest has computed."""
    return f"{CACHES}/{encoder_digest}"


def shard_name(shard: int, shards: int) -> str:
    """Returns `shard-00000-of-00002` for the first of two shards."""
    if not 0 <= shard < shards:
        raise ValueError(f"shard must be in [0, {shards}), got {shard}.")
    return f"shard-{shard:05d}-of-{shards:05d}"


def index_folder(shard: int, shards: int) -> str:
    """Returns the folder of a shard's index, relative to its release."""
    return f"index/{shard_name(shard, shards)}"


def embeddings_file(shard: int, shards: int) -> str:
    """Returns the file of a shard's embeddings (float32 `[n, D]`), relative to its release."""
    return f"embeddings/{shard_name(shard, shards)}.npy"


def items_file(shard: int, shards: int) -> str:
    """Returns the file of a shard's items (SQLite), relative to its release."""
    return f"items/{shard_name(shard, shards)}.sqlite"


def shard_of(item_id: str, shards: int) -> int:
    """Returns the shard of an item, in [0, `shards`): a stable hash, the same in every process and version."""
    digest = hashlib.sha256(item_id.encode()).digest()
    return int.from_bytes(digest[:8], "big") % shards
