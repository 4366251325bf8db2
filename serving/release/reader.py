"""Opens a release, refuses what must not be served, and answers queries over what may be."""

import dataclasses
import pathlib
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from serving.index import Embeddings, IndexParameters
from serving.release import layout
from serving.release.encoder_info import EncoderInfo
from serving.release.items import Item
from serving.release.manifest import EncoderRef, Manifest, ManifestError
from serving.release.shard import LoadedShard, load_shard
from serving.release.verify import (
    SCORE_TOLERANCE,
    ReleaseRefused,
    check_encoder_folder,
    check_file,
    check_files,
)
from serving.storage import Store

# What the live encoder must give back of its probe, as a cosine: float32 on other hardware differs by less.
PROBE_COSINE = 0.9999


@dataclasses.dataclass(frozen=True)
class Neighbor:
    """A result. item: without its thumbnail. score: exact cosine with the query, in [-1, 1]."""

    item: Item
    score: float


class Release:
    """A release that may be served. Its methods may be called from any number of threads until it is closed."""

    def __init__(self, manifest: Manifest, encoder_info: EncoderInfo, shards: list[LoadedShard]) -> None:
        self.manifest = manifest
        self.encoder_info = encoder_info
        self._shards = shards

    def search(self, vector: npt.ArrayLike, k: int, *, exclude: str | None = None) -> list[Neighbor]:
        """Returns the k items most like `vector`, best first, ties by item id; fewer only where there are no more.

        Args:
          vector: `[D]`, of any length but zero.
          k: at least 1.
          exclude: the id of an item to leave out; one that isn't held changes nothing.

        Raises:
          ValueError: where `vector` has another shape, or NaN, or infinity, or is all zero.
        """
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}.")
        query = self._unit(vector)
        found = []
        for number, shard in enumerate(self._shards):
            row = None if exclude is None else shard.items.row_of(exclude)
            rows, scores = shard.nearest(query, k, row)
            found.append((number, rows, scores))
        if len(found) > 1:
            found = _cut(found, k)
        neighbors = [
            Neighbor(item, score)
            for number, rows, scores in found
            for item, score in zip(self._shards[number].items.by_row(rows.tolist()), scores.tolist(), strict=True)
        ]
        if len(found) > 1:
            neighbors.sort(key=lambda neighbor: (-neighbor.score, neighbor.item.item_id))
        return neighbors[:k]

    def get_item(self, item_id: str, thumbnail: bool = False) -> Item | None:
        """Returns an item, or None where the release doesn't hold it."""
        shard, row = self._find(item_id)
        return None if row is None else shard.items.by_row([row], thumbnails=thumbnail)[0]

    def embedding(self, item_id: str) -> Embeddings | None:
        """Returns the stored embedding of an item, float32 `[D]` of unit length, or None where it isn't held."""
        shard, row = self._find(item_id)
        return None if row is None else shard.embedding(row)

    def close(self) -> None:
        """Frees what the release holds; no search may be running."""
        for shard in self._shards:
            shard.items.close()

    def _find(self, item_id: str) -> tuple[LoadedShard, int | None]:
        shard = self._shards[layout.shard_of(item_id, len(self._shards))]
        return shard, shard.items.row_of(item_id)

    def _unit(self, vector: npt.ArrayLike) -> Embeddings:
        with np.errstate(over="ignore"):  # what is too large for a float32 becomes infinite, and is refused below
            query = np.asarray(vector, np.float32)
        dimension = self.manifest.encoder.dimension
        if query.shape != (dimension,):
            raise ValueError(f"vector must have {dimension} values, got shape {query.shape}.")
        # In float64, where the square of no float32 overflows or vanishes.
        norm = float(np.sqrt(np.square(query, dtype=np.float64).sum()))
        if not 0 < norm < np.inf:
            raise ValueError(f"vector must be finite and not all zero, got a length of {norm}.")
        return (query / norm).astype(np.float32)


def read_manifest(store: Store, release_id: str) -> Manifest:
    """Returns a release's manifest.

    Raises:
      ReleaseRefused: it can't be right.
      FileNotFoundError: it isn't there.
    """
    try:
        manifest = Manifest.from_json(store.read(f"{layout.release_folder(release_id)}/{layout.MANIFEST}"))
    except ManifestError as error:
        raise ReleaseRefused(f"{layout.MANIFEST}: {error}") from error
    if manifest.release_id != release_id:
        raise ReleaseRefused(f"{layout.MANIFEST} is that of {manifest.release_id}.")
    return manifest


def open_release(store: Store, release_id: str, *, cache: pathlib.Path | None = None) -> Release:
    """Returns a release after checking all that needs no running encoder.

    Args:
      store: the serving root.
      release_id: a folder below `releases/`.
      cache: where the copy of a release from an object store is kept; a local one is opened where it lies.

    Raises:
      ReleaseRefused: what it says is wrong stays wrong.
      OSError: the store can't be read now, or holds no such release (yet); trying again may help.
    """
    manifest = read_manifest(store, release_id)
    folder = store.local_path(layout.release_folder(release_id))
    if folder is None:
        if cache is None:
            raise ValueError(f"{store.uri} is remote: its releases need a cache folder.")
        folder = cache / release_id
        _download_release(store, manifest, folder)
    else:
        check_files(folder, [entry for shard in manifest.index.shards for entry in shard.files])
    return load_release(folder, manifest, read_encoder(store, manifest.encoder))


def read_encoder(store: Store, encoder: EncoderRef) -> EncoderInfo:
    """Returns what the encoder of a release says of itself; raises ReleaseRefused where the store holds another."""
    path = layout.encoder_folder(encoder.model, encoder.version)
    folder = store.local_path(path)
    if folder is not None:
        return check_encoder_folder(folder, encoder, layout.ENCODER_INFO)
    with tempfile.TemporaryDirectory(prefix="lookalike-encoder-") as temporary:
        for stat in store.files(path):
            store.download(stat.path, pathlib.Path(temporary, stat.path))
        return check_encoder_folder(pathlib.Path(temporary, path), encoder, layout.ENCODER_INFO)


def load_release(folder: pathlib.Path, manifest: Manifest, encoder_info: EncoderInfo) -> Release:
    """Returns the release in a local folder, whose files were checked; raises ReleaseRefused where it isn't sound."""
    shards: list[LoadedShard] = []
    release = Release(manifest, encoder_info, shards)
    try:
        parameters = IndexParameters.from_dict(manifest.index.parameters)
        for number, shard in enumerate(manifest.index.shards):
            place = number, len(manifest.index.shards)
            shards.append(load_shard(folder, shard, manifest.encoder.dimension, parameters, place))
        recall = golden_recall(release)
        if recall < manifest.golden_recall:
            raise ReleaseRefused(
                f"recall on the golden queries is {recall:.4f}, the manifest asks for {manifest.golden_recall}."
            )
    except (ValueError, TypeError) as error:
        release.close()
        raise ReleaseRefused(f"index.parameters: {error}") from error
    except ReleaseRefused:
        release.close()
        raise
    return release


def golden_recall(release: Release) -> float:
    """Returns the share of the golden neighbours that the loaded index finds, in [0, 1]; 1 where there are none.

    A neighbour as near as the last golden one counts as found: among equals the list holds only some. One that is
    nearer than the golden one in its place shows that the list is not what it says: ReleaseRefused.
    """
    found = expected = 0
    for query in release.manifest.golden:
        vector = release.embedding(query.item_id)
        golden = [release.embedding(name) for name in query.neighbors]
        if vector is None or any(neighbor is None for neighbor in golden):
            raise ReleaseRefused(f"golden query {query.item_id!r} names an item that the release doesn't hold.")
        if not golden:
            continue
        best = np.sort(np.stack([n for n in golden if n is not None]) @ vector)[::-1]
        got = [neighbor.score for neighbor in release.search(vector, len(golden), exclude=query.item_id)]
        if any(score > bound + SCORE_TOLERANCE for score, bound in zip(got, best.tolist(), strict=False)):
            raise ReleaseRefused(f"the neighbours of golden query {query.item_id!r} are not its nearest.")
        expected += len(golden)
        found += sum(score >= best[-1] - SCORE_TOLERANCE for score in got)
    return found / expected if expected else 1.0


def check_encoder(release: Release, encode: Callable[[list[bytes]], npt.NDArray[np.float32]]) -> None:
    """Raises ReleaseRefused where the live encoder does not embed the probe as the release's encoder did.

    encode: canonical images to float32 `[N, D]`, by the encoder version of the release; what it raises passes through.
    """
    probes = release.encoder_info.probes
    expected = np.stack([probe.embedding for probe in probes]).astype(np.float64)
    got = np.asarray(encode([probe.image for probe in probes]), np.float64)
    if got.shape != expected.shape:
        raise ReleaseRefused(f"the encoder answers the probe with shape {got.shape}, expected {expected.shape}.")
    lengths = np.linalg.norm(got, axis=1) * np.linalg.norm(expected, axis=1)
    cosines = (got * expected).sum(axis=1) / np.where(lengths > 0, lengths, 1)
    if not (cosines >= PROBE_COSINE).all():
        raise ReleaseRefused(
            f"the encoder's embedding of the probe has a cosine of {cosines.min():.6f} with the one it was validated "
            f"with, expected at least {PROBE_COSINE}: it is another encoder."
        )


def _download_release(store: Store, manifest: Manifest, folder: pathlib.Path) -> None:
    base = layout.release_folder(manifest.release_id)
    for entry in (entry for shard in manifest.index.shards for entry in shard.files):
        file = folder / entry.path
        try:
            check_file(file, entry)
            continue  # from an earlier run
        except ReleaseRefused:
            pass
        with tempfile.TemporaryDirectory(dir=_made(file.parent)) as temporary:
            copy = pathlib.Path(temporary, file.name)
            try:
                store.download(f"{base}/{entry.path}", copy)
            except FileNotFoundError as error:
                raise ReleaseRefused(f"{entry.path} is missing.") from error
            check_file(copy, entry)
            copy.replace(file)


def _made(folder: pathlib.Path) -> pathlib.Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _cut(found: list[Any], k: int) -> list[Any]:
    """Returns what may be among the k best over all shards: no less than k, with all equals of the last."""
    scores = np.concatenate([scores for _, _, scores in found])
    if len(scores) <= k:
        return found
    bar = np.partition(scores, len(scores) - k)[len(scores) - k]
    return [(number, rows[scores >= bar], scores[scores >= bar]) for number, rows, scores in found]
