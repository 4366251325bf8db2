"""Copies the files of one serving root to another, each held against the digest that something gives of it."""

import collections
import concurrent.futures
import pathlib
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping

from serving.journal.segment import SegmentDamaged, from_bytes
from serving.release import layout
from serving.release.encoder_info import file_sha256, tree_digest
from serving.release.manifest import FileEntry, Manifest
from serving.release.reader import read_manifest
from serving.release.retention import delete_release
from serving.release.verify import ReleaseRefused
from serving.storage import Stat, Store

# Each file is synced before it counts; disks and buckets take several at a time.
_COPIES = 8
_BATCH = 64  # files between two renewals of the lease


class Transfer:
    """One pass over a serving root.

    files, size: how many files and bytes were copied. problems: what was not copied as it should be. incomplete: the
    releases that the target lacks something of.
    """

    def __init__(self, source: Store, target: Store, renew: Callable[[], None] = lambda: None) -> None:
        """renew: called from time to time."""
        self._source = source
        self._target = target
        self._renew = renew
        self._manifests = dict(_manifests(source))
        self._digests = _file_digests(self._manifests.values())
        self.files = 0
        self.size = 0
        self.problems: list[str] = []
        self.incomplete: set[str] = set()
        for release_id in source.folders(layout.RELEASES):
            if release_id not in self._manifests:
                self._fault(f"{layout.release_folder(release_id)}/{layout.MANIFEST}", "it can't be read")

    def copy(self, folder: str) -> None:
        """Copies the files below a folder that the target lacks; manifests last."""
        there = {stat.path: stat for stat in self._target.files(folder)}
        ours = list(self._source.files(folder))
        for parent in {stat.path.rpartition("/")[0] for stat in ours}:
            # What an earlier copy that died has left would be taken for a part of an encoder.
            self._target.clean(parent)
        missing = [stat for stat in ours if _differs(stat, there.get(stat.path))]
        manifests = [stat for stat in missing if stat.path.endswith(f"/{layout.MANIFEST}")]
        whole = self._copy_all([stat for stat in missing if stat not in manifests])
        if folder == layout.ENCODERS:
            self._check_encoders(whole, there)
        # Not of those of which something is missing: without it a release isn't there.
        self._copy_all([stat for stat in manifests if _release_of(stat.path) not in self.incomplete])

    def delete_others(self, folders: Iterable[str]) -> int:
        """Deletes the files that the target has and the source hasn't; returns how many."""
        count = 0
        for folder in folders:
            ours = {stat.path for stat in self._source.files(folder)}
            others = [stat.path for stat in self._target.files(folder) if stat.path not in ours]
            count += len(others)
            if folder == layout.RELEASES:
                # Whole, so that none is left without something.
                for release_id in {_release_of(path) for path in others} - set(self._manifests):
                    delete_release(self._target, release_id)
                others = [path for path in others if _release_of(path) in self._manifests]
            for number, path in enumerate(others):
                if number % _BATCH == 0:
                    self._renew()
                self._target.delete(path)
            for name in self._target.folders(folder):
                self._target.delete_empty(f"{folder}/{name}")
        return count

    def _copy_all(self, stats: list[Stat]) -> dict[str, FileEntry]:
        copied: dict[str, FileEntry] = {}
        with concurrent.futures.ThreadPoolExecutor(_COPIES) as pool:
            for start in range(0, len(stats), _BATCH):
                self._renew()
                for stat, entry in zip(
                    stats[start : start + _BATCH], pool.map(self._copy, stats[start : start + _BATCH]), strict=True
                ):
                    if isinstance(entry, FileEntry):
                        copied[stat.path] = entry
                        self.files += 1
                        self.size += entry.size
                    elif entry:
                        self._fault(stat.path, entry)
        return copied

    def _copy(self, stat: Stat) -> FileEntry | str:
        """Returns the file that was copied, or what is wrong with it: nothing, where it was deleted meanwhile."""
        with tempfile.TemporaryDirectory(prefix="lookalike-copy-") as folder:
            file = pathlib.Path(folder, "file")
            try:
                self._source.download(stat.path, file)
            except FileNotFoundError:
                return ""
            entry = FileEntry(stat.path, file.stat().st_size, file_sha256(file))
            said = self._digests.get(stat.path)
            if stat.path.startswith(f"{layout.CONTENTS}/"):
                said = stat.path.rpartition("/")[2]
            if said is not None and said != entry.sha256:
                return f"its sha256 is {entry.sha256}, it should be {said}"
            if layout.parse_segment(stat.path):
                try:
                    from_bytes(file.read_bytes())
                except SegmentDamaged as error:
                    return str(error)
            self._target.put(file, stat.path)
        return entry

    def _check_encoders(self, copied: Mapping[str, FileEntry], there: Mapping[str, Stat]) -> None:
        """Compares the encoders of which every file was copied now with the digests that releases name."""
        files: dict[str, list[FileEntry]] = collections.defaultdict(list)
        for path, entry in copied.items():
            folder = "/".join(path.split("/")[:3])
            files[folder].append(FileEntry(path.removeprefix(f"{folder}/"), entry.size, entry.sha256))
        for manifest in self._manifests.values():
            folder = layout.encoder_folder(manifest.encoder.model, manifest.encoder.version)
            if folder not in files or any(path.startswith(f"{folder}/") for path in there):
                continue
            if tree_digest(files[folder]) != manifest.encoder.digest:
                self.problems.append(f"{folder} of {manifest.release_id} is another encoder than it should be")
                self.incomplete.add(manifest.release_id)

    def _fault(self, path: str, reason: str) -> None:
        self.problems.append(f"{self._source.uri}/{path}: {reason}")
        release_id = _release_of(path)
        if release_id:
            self.incomplete.add(release_id)


def _manifests(store: Store) -> Iterator[tuple[str, Manifest]]:
    for release_id in store.folders(layout.RELEASES):
        try:
            yield release_id, read_manifest(store, release_id)
        except (ReleaseRefused, ValueError, FileNotFoundError):
            continue


def _file_digests(manifests: Iterable[Manifest]) -> dict[str, str]:
    found = {}
    for manifest in manifests:
        base = layout.release_folder(manifest.release_id)
        found.update({f"{base}/{entry.path}": entry.sha256 for entry in manifest.files})
    return found


def _differs(stat: Stat, there: Stat | None) -> bool:
    # Nothing changes under its name, but for what a purge rewrites and what says how far it is.
    rewritten = layout.parse_segment(stat.path) or stat.path.startswith(f"{layout.PURGES}/")
    return there is None or there.size != stat.size or bool(rewritten and stat.modified > there.modified)


def _release_of(path: str) -> str:
    """Returns the release that a file belongs to, or nothing."""
    parts = path.split("/")
    return parts[1] if parts[0] == layout.RELEASES and len(parts) > 2 else ""
