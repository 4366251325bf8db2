"""Opens a release, and refuses what must not be served."""

import dataclasses
import pathlib
import tempfile
import time
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from serving.index import IndexParameters
from serving.journal.state import UpdatesState
from serving.release import layout
from serving.release.encoder_info import EncoderInfo
from serving.release.items import ItemShard
from serving.release.manifest import EncoderRef, FileEntry, Manifest, ManifestError
from serving.release.release import Neighbor, Release, rank_together
from serving.release.shard import LoadedShard, Ranks, check_shard, load_shard
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
    "Checked",
    "Neighbor",
    "Release",
    "check_encoder",
    "check_release",
    "golden_recall",
    "load_release",
    "open_release",
    "read_encoder",
    "read_manifest",
]
# What the live encoder must give back of its probe, as a cosine: float32 on other hardware differs by less.
PROBE_COSINE = 0.9999
# Between golden queries, where something is served meanwhile.
_REST_SECONDS = 0.002


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


@dataclasses.dataclass(frozen=True)
class Checked:
    """That every byte of a release was looked at, and what there was to see: nobody needs to look again.

    encoder_info: the encoder's own, as JSON. ranks: of each shard that is loaded, see `check_shard`. all_ranks: see
    `rank_together`. Ranks are int32 `[n]`.
    """

    encoder_info: bytes
    ranks: Sequence[Ranks]
    all_ranks: Ranks


def check_release(
    store: Store, release_id: str, *, cache: pathlib.Path | None = None, share: Share | None = WHOLE
) -> tuple[Checked, list[ItemShard]]:
    """Does all that `open_release` does, but load the index: most of the work, and for any process to do.

    Returns what it has found, and the items of the shards, which the caller must close. Arguments and errors are those
    of `open_release`.
    """
    manifest = read_manifest(store, release_id)
    folder = _local_folder(store, manifest, cache, share)
    encoder_info = read_encoder(store, manifest.encoder)
    count = len(manifest.index.shards)
    shards: list[tuple[ItemShard, Ranks]] = []
    try:
        for number in [] if share is None else share.shards(count):
            place = number, count
            shards.append(check_shard(folder, manifest.index.shards[number], manifest.encoder.dimension, place))
        together = rank_together(shards)
    except BaseException:
        for items, _ in shards:
            items.close()
        raise
    return Checked(encoder_info.to_json(), [ranks for _, ranks in shards], together), [items for items, _ in shards]


def open_release(
    store: Store,
    release_id: str,
    *,
    cache: pathlib.Path | None = None,
    share: Share | None = WHOLE,
    checked: Checked | None = None,
) -> Release:
    """Returns a release after checking all that needs no running encoder.

    Args:
      store: the serving root.
      release_id: a folder below `releases/`.
      cache: where the copy of a release from an object store is kept; a local one is opened where it lies.
      share: the shards to load, and to read at all; None for none, which leaves what the manifest says.
      checked: what `check_release` returned for the same arguments: then there is little left to check.

    Raises:
      ReleaseRefused: what it says is wrong stays wrong.
      OSError: the store can't be read now, or holds no such release (yet); trying again may help.
    """
    manifest = read_manifest(store, release_id)
    if checked is not None:
        folder = store.local_path(layout.release_folder(release_id)) or _cached(store, manifest, cache)
        encoder_info = EncoderInfo.from_json(checked.encoder_info)
        return load_release(folder, manifest, encoder_info, share=share, checked=checked)
    folder = _local_folder(store, manifest, cache, share)
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
    checked: Checked | None = None,
) -> Release:
    """Returns the release in a local folder, whose files were checked; raises ReleaseRefused where it isn't sound.

    updates: the file of its updates, where it isn't in the folder yet. share, checked: see open_release; where it was
    checked before, this takes its time, and keeps Python's lock from others as little as can be.
    """
    shards: list[LoadedShard] = []
    state = _load_updates(updates or folder / layout.UPDATES_STATE, manifest)
    try:
        parameters = IndexParameters.from_dict(manifest.index.parameters)
        count = len(manifest.index.shards)
        numbers = [] if share is None else share.shards(count)
        for at, number in enumerate(numbers):
            shard, ranks = manifest.index.shards[number], None if checked is None else checked.ranks[at]
            begun = time.monotonic()
            shards.append(load_shard(folder, shard, manifest.encoder.dimension, parameters, (number, count), ranks))
            if checked is not None:
                # ScaNN keeps the lock while it loads: what has queued up meanwhile comes before the next shard.
                time.sleep(time.monotonic() - begun)
        all_ranks = None if checked is None else checked.all_ranks
        release = Release(manifest, encoder_info, shards, state, numbers, all_ranks)
        recall = golden_recall(release, 0.0 if checked is None else _REST_SECONDS)
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


def golden_recall(release: Release, rest: float = 0.0) -> float:
    """Returns the share of the golden neighbours that the loaded index finds, in [0, 1]; 1 where there are none.

    rest: seconds to wait between queries, so that others get on.
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
        if rest:
            time.sleep(rest)
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


def _local_folder(store: Store, manifest: Manifest, cache: pathlib.Path | None, share: Share | None) -> pathlib.Path:
    """Returns the folder of a release, here, after checking its files: all that `share` needs."""
    folder = store.local_path(layout.release_folder(manifest.release_id))
    files = manifest.files if share == WHOLE else _files(manifest, share)
    if folder is None:
        folder = _cached(store, manifest, cache)
        _download_release(store, manifest, files, folder)
    else:
        check_files(folder, files)
    return folder


def _cached(store: Store, manifest: Manifest, cache: pathlib.Path | None) -> pathlib.Path:
    if cache is None:
        raise ValueError(f"{store.uri} is remote: its releases need a cache folder.")
    return cache / manifest.release_id


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
