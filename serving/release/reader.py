"""Opens a release, and refuses what must not be served."""

import pathlib
import tempfile
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from serving.index import IndexParameters
from serving.journal.state import UpdatesState
from serving.release import layout
from serving.release.encoder_info import EncoderInfo
from serving.release.manifest import EncoderRef, FileEntry, Manifest, ManifestError
from serving.release.release import Neighbor, Release
from serving.release.shard import LoadedShard, load_shard
from serving.release.share import WHOLE, Share
from serving.release.verify import (
    DAMAGE,
    SCORE_TOLERANCE,
    ReleaseRefused,
    check_encoder_folder,
    check_file,
    check_files,
)
from serving.storage import Store

__all__ = [
    "Neighbor",
    "Release",
    "check_encoder",
    "golden_recall",
    "load_release",
    "open_release",
    "read_encoder",
    "read_manifest",
]
# What the live encoder must give back of its probe, as a cosine: float32 on other hardware differs by less.
PROBE_COSINE = 0.9999


def read_manifest(store: Store, release_id: str) -> Manifest:
    """Returns a release's manifest.

    Raises:
      ReleaseRefused: it can't be right.
      FileNotFoundError: it isn't there.
    """
    try:
        manifest = Manifest.from_json(store.read(f"{layout.release_folder(release_id)}/{layout.MANIFEST}"))
    except ManifestError as error:
        raise ReleaseRefused(f"{layout.MANIFEST}: {error}", fault="manifest") from error
    if manifest.release_id != release_id:
        raise ReleaseRefused(f"{layout.MANIFEST} is that of {manifest.release_id}.", fault="manifest")
    return manifest


def open_release(
    store: Store, release_id: str, *, cache: pathlib.Path | None = None, share: Share | None = WHOLE
) -> Release:
    """Returns a release after checking all that needs no running encoder.

    Args:
      store: the serving root.
      release_id: a folder below `releases/`.
      cache: where the copy of a release from an object store is kept; a local one is opened where it lies.
      share: the shards to load, and to read at all; None for none, which leaves what the manifest says.

    Raises:
      ReleaseRefused: what it says is wrong stays wrong.
      OSError: the store can't be read now, or holds no such release (yet); trying again may help.
    """
    manifest = read_manifest(store, release_id)
    folder = store.local_path(layout.release_folder(release_id))
    files = manifest.files if share == WHOLE else _files(manifest, share)
    if folder is None:
        if cache is None:
            raise ValueError(f"{store.uri} is remote: its releases need a cache folder.")
        folder = cache / release_id
        _download_release(store, manifest, files, folder)
    else:
        check_files(folder, files)
    return load_release(folder, manifest, read_encoder(store, manifest.encoder), share=share)


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


def load_release(
    folder: pathlib.Path,
    manifest: Manifest,
    encoder_info: EncoderInfo,
    *,
    updates: pathlib.Path | None = None,
    share: Share | None = WHOLE,
) -> Release:
    """Returns the release in a local folder, whose files were checked; raises ReleaseRefused where it isn't sound.

    updates: the file of its updates, where it isn't in the folder yet. share: see open_release.
    """
    shards: list[LoadedShard] = []
    state = _load_updates(updates or folder / layout.UPDATES_STATE, manifest)
    try:
        parameters = IndexParameters.from_dict(manifest.index.parameters)
        count = len(manifest.index.shards)
        numbers = [] if share is None else share.shards(count)
        for number in numbers:
            shard = manifest.index.shards[number]
            shards.append(load_shard(folder, shard, manifest.encoder.dimension, parameters, (number, count)))
        release = Release(manifest, encoder_info, shards, state, numbers)
        recall = golden_recall(release)
        if recall < manifest.golden_recall - (0 if len(numbers) == count else _slack(release)):
            raise ReleaseRefused(
                f"recall on the golden queries is {recall:.4f}, the manifest asks for {manifest.golden_recall}.",
                fault="golden",
            )
    except (ValueError, TypeError) as error:
        _close(shards, state)
        raise ReleaseRefused(f"index.parameters: {error}", fault="manifest") from error
    except ReleaseRefused:
        _close(shards, state)
        raise
    return release


def golden_recall(release: Release) -> float:
    """Returns the share of the golden neighbours that the loaded index finds, in [0, 1]; 1 where there are none.

    A neighbour as near as the last golden one counts as found: among equals the list holds only some. One that is
    nearer than the golden one in its place shows that the list is not what it says: ReleaseRefused. Where only some
    shards are loaded, queries and neighbours of the others don't count.
    """
    found = expected = 0
    for query in release.manifest.golden:
        if not release.owns(query.item_id):
            continue
        vector = release.embedding(query.item_id)
        golden = [release.embedding(name) for name in query.neighbors if release.owns(name)]
        if vector is None or any(neighbor is None for neighbor in golden):
            raise ReleaseRefused(
                f"golden query {query.item_id!r} names an item that the release doesn't hold.", fault="golden"
            )
        if not golden:
            continue
        best = np.sort(np.stack([n for n in golden if n is not None]) @ vector)[::-1]
        got = [neighbor.score for neighbor in release.search(vector, len(golden), exclude=query.item_id)]
        if any(score > bound + SCORE_TOLERANCE for score, bound in zip(got, best.tolist(), strict=False)):
            raise ReleaseRefused(
                f"the neighbours of golden query {query.item_id!r} are not its nearest.", fault="golden"
            )
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
        raise ReleaseRefused(
            f"the encoder answers the probe with shape {got.shape}, expected {expected.shape}.", fault="probe"
        )
    lengths = np.linalg.norm(got, axis=1) * np.linalg.norm(expected, axis=1)
    cosines = (got * expected).sum(axis=1) / np.where(lengths > 0, lengths, 1)
    if not (cosines >= PROBE_COSINE).all():
        raise ReleaseRefused(
            f"the encoder's embedding of the probe has a cosine of {cosines.min():.6f} with the one it was validated "
            f"with, expected at least {PROBE_COSINE}: it is another encoder.",
            fault="probe",
        )


def _files(manifest: Manifest, share: Share | None) -> list[FileEntry]:
    """Returns the files of a release that loading a share of it takes."""
    shards = manifest.index.shards
    numbers = [] if share is None else share.shards(len(shards))
    updates = [] if manifest.updates is None else [manifest.updates.file]
    return [*(entry for number in numbers for entry in shards[number].files), *updates]


def _slack(release: Release) -> float:
    """Returns how much less than that of the whole release the recall of a part may be by chance, in [0, 1].

    Three standard deviations of a share of independent trials; the floor was found over all golden neighbours.
    """
    golden = [query for query in release.manifest.golden if release.owns(query.item_id)]
    trials = sum(release.owns(name) for query in golden for name in query.neighbors)
    floor = release.manifest.golden_recall
    return 3 * (floor * (1 - floor) / trials) ** 0.5 if trials else 0.0


def _download_release(store: Store, manifest: Manifest, files: Sequence[FileEntry], folder: pathlib.Path) -> None:
    base = layout.release_folder(manifest.release_id)
    for entry in files:
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
                raise ReleaseRefused(f"{entry.path} is missing.", fault="file") from error
            check_file(copy, entry)
            copy.replace(file)


def _made(folder: pathlib.Path) -> pathlib.Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _load_updates(file: pathlib.Path, manifest: Manifest) -> UpdatesState:
    if manifest.updates is None:
        return UpdatesState(None)
    try:
        state = UpdatesState(file)
    except (*DAMAGE, FileNotFoundError) as error:
        raise ReleaseRefused(f"{layout.UPDATES_STATE}: {error}", fault="updates") from error
    counts = state.upsert_count, state.tombstone_count
    said = manifest.updates.upserts, manifest.updates.tombstones
    if counts != said:
        state.close()
        raise ReleaseRefused(
            f"{layout.UPDATES_STATE} holds {counts[0]} upserts and {counts[1]} tombstones, "
            f"the manifest says {said[0]} and {said[1]}.",
            fault="updates",
        )
    return state


def _close(shards: list[LoadedShard], state: UpdatesState) -> None:
    state.close()
    for shard in shards:
        shard.items.close()
