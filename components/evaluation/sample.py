"""A seeded sample of examples that doesn't depend on the order of records, and the fingerprint of all of them."""

import dataclasses
import hashlib
import heapq
from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow as tf

from components import features
from components.ingest.set_digest import SetDigest

_READ_BATCH = 128


@dataclasses.dataclass(frozen=True)
class SampledItem:
    """One content of the sample. key: its place in the sample, ascending. label: None where examples have none."""

    key: int
    item_id: str
    sha256: str
    label: str | None
    image: bytes


@dataclasses.dataclass(frozen=True)
class SplitSample:
    """Which contents of a split are in the sample.

    files: the split's TFRecords. records: how many examples it has. contents: how many different ones, or `limit` where
    there are more. chosen: sha256 -> (key, item id), at most `limit`, those with the smallest keys.
    digest_state: of the SetDigest over all its examples, for `data_fingerprint`.
    """

    files: tuple[str, ...]
    records: int
    contents: int
    chosen: dict[str, tuple[int, str]]
    digest_state: str

    def read(self, only: frozenset[str] | None = None) -> Iterator[list[SampledItem]]:
        """Yields the sample's items in batches, in the order of the files; only those with a sha256 in `only`."""
        wanted = self.chosen if only is None else {sha: self.chosen[sha] for sha in only if sha in self.chosen}
        if not wanted:
            return
        items: list[SampledItem] = []
        spec = {**_KEYS, features.IMAGE: _STRING, features.LABEL: tf.io.FixedLenSequenceFeature([], tf.string, True)}
        for batch in _batches(self.files, spec):
            labels = batch[features.LABEL]
            for number, (item_id, sha256) in enumerate(_identities(batch)):
                # Of several items with one content the sample has the first by id.
                if wanted.get(sha256, (0, ""))[1] != item_id:
                    continue
                label = labels[number, 0].decode() if labels.shape[1] and labels[number, 0] else None
                key = wanted[sha256][0]
                items.append(SampledItem(key, item_id, sha256, label, bytes(batch[features.IMAGE][number])))
            if len(items) >= _READ_BATCH:
                yield items
                items = []
        if items:
            yield items


def sample_split(files: Sequence[str], *, limit: int, seed: int) -> SplitSample:
    """Reads every example's id and sha256 and chooses `limit` different contents: memory is bounded by `limit`."""
    records, digest = 0, SetDigest()
    chosen: dict[str, tuple[int, str]] = {}
    largest: list[tuple[int, str]] = []  # a heap of (-key, sha256)
    overflowed = False
    for batch in _batches(files, _KEYS):
        for item_id, sha256 in _identities(batch):
            records += 1
            digest.add(item_id, sha256)
            if sha256 in chosen:
                key, first = chosen[sha256]
                chosen[sha256] = (key, min(first, item_id))
                continue
            key = _key(sha256, seed)
            if len(chosen) == limit:
                overflowed = True
                if key >= -largest[0][0]:
                    continue
                del chosen[heapq.heappop(largest)[1]]
            heapq.heappush(largest, (-key, sha256))
            chosen[sha256] = (key, item_id)
    contents = limit if overflowed else len(chosen)
    return SplitSample(tuple(files), records, contents, chosen, digest.state)


def data_fingerprint(splits: Sequence[SplitSample]) -> str:
    """Returns 64 hex digits that name the (item id, sha256) pairs of all examples, in whatever order or split."""
    digest = SetDigest()
    for split in splits:
        digest.merge(split.digest_state)
    return digest.hexdigest()


def split_files(examples_uri: str, split: str) -> list[str]:
    """Returns the TFRecords of a split, sorted; none where there is no such split."""
    return sorted(str(name) for name in tf.io.gfile.glob(f"{examples_uri}/Split-{split}/*"))


_STRING = tf.io.FixedLenFeature([], tf.string)
_KEYS = {features.ITEM_ID: _STRING, features.SHA256: _STRING}


def _batches(files: Sequence[str], spec: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if not files:
        return iter(())
    records = tf.data.TFRecordDataset(list(files), "GZIP").batch(_READ_BATCH)
    parsed = records.map(lambda serialized: tf.io.parse_example(serialized, spec)).prefetch(2)
    return iter(parsed.as_numpy_iterator())


def _identities(batch: dict[str, Any]) -> list[tuple[str, str]]:
    ids, digests = batch[features.ITEM_ID], batch[features.SHA256]
    return [(i.decode(), s.decode()) for i, s in zip(ids, digests, strict=True)]


def _key(sha256: str, seed: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}:{sha256}".encode()).digest()[:8], "big")
