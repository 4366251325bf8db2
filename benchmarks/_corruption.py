"""Releases with a flipped bit in one of their files, offered to a gateway that serves another."""

import dataclasses
import os
import pathlib
import shutil
import time

import numpy as np

from benchmarks._encoders import MODEL
from benchmarks._generations import Generations
from benchmarks._processes import Service, say, service
from serving.client import Client, QueryFailed
from serving.release import layout
from serving.release.current import write_current
from serving.release.manifest import Manifest
from serving.storage import open_store

_DECIDED_SECONDS = 30.0


@dataclasses.dataclass(frozen=True)
class CorruptionFigures:
    """What came of it. flips, refused: by file. served: which flips were served. failed: queries meanwhile.

    control: whether the same release without a flip was served at the end.
    """

    flips: dict[str, int]
    refused: dict[str, int]
    served: list[str]
    queries: int
    failed: int
    control: bool


class Copies:
    """Copies of the release that is served, under other ids, each with its encoder; unchanged files are links."""

    def __init__(self, root: pathlib.Path, release_id: str) -> None:
        self._root = root
        self._source = root / layout.release_folder(release_id)
        self._manifest = Manifest.from_json((self._source / layout.MANIFEST).read_bytes())
        self._encoder = root / layout.encoder_folder(MODEL, self._manifest.encoder.version)
        self.release_files = _files(self._source)
        self.encoder_files = [f"encoder/{name}" for name in _files(self._encoder)]

    def write(self, number: int, flipped: str = "", generator: np.random.Generator | None = None) -> str:
        """Writes copy `number`, with a bit flipped in one file (an encoder's then has a version of its own)."""
        release_id = f"copy-{number}"
        manifest = dataclasses.replace(self._manifest, release_id=release_id)
        name = flipped.removeprefix("encoder/")
        if name != flipped:
            version = 1000 + number
            manifest = dataclasses.replace(manifest, encoder=dataclasses.replace(manifest.encoder, version=version))
            target = self._root / layout.encoder_folder(MODEL, version)
            # Beside its place first, as a publisher does: the model server must not see half of it.
            beside = target.with_name(f".{version}.tmp")
            shutil.copytree(self._encoder, beside, copy_function=os.link)
            _flip(beside / name, generator)
            beside.rename(target)
        folder = self._root / layout.release_folder(release_id)
        shutil.copytree(self._source, folder, copy_function=os.link)
        (folder / layout.MANIFEST).unlink()
        (folder / layout.MANIFEST).write_bytes(manifest.to_json())
        if flipped and name == flipped:
            _flip(folder / name, generator)
        write_current(open_store(self._root), release_id)
        return release_id

    def delete(self, number: int) -> None:
        """Removes copy `number` and its encoder."""
        shutil.rmtree(self._root / layout.release_folder(f"copy-{number}"))
        shutil.rmtree(self._root / layout.encoder_folder(MODEL, 1000 + number), ignore_errors=True)


def corrupt(folder: pathlib.Path, generations: Generations, *, flips: int, seed: int = 0) -> CorruptionFigures:
    """Offers `flips` spoiled copies, of every file at least one, and then one that is whole."""
    generator = np.random.default_rng(seed)
    served_id = generations.current.release_id
    copies = Copies(generations.root, served_id)
    names = [*copies.release_files, *copies.encoder_files]
    counts = dict.fromkeys(names, 0)
    refused = dict.fromkeys(names, 0)
    served: list[str] = []
    queries = failed = 0
    vector = list(generations.vector_requests()[0].vector.values)
    with (
        service(generations.root, folder / "logs", "--poll-seconds", "0.05") as running,
        Client(running.gateway.address, timeout=5) as client,
    ):
        for number in range(max(flips, len(names))):
            name = names[number % len(names)]
            release_id = copies.write(number, name, generator)
            state = _decided(client, running, release_id)
            counts[name] += 1
            refused[name] += state == "refused"
            if state != "refused":
                served.append(f"{name} (copy {number}): {state}")
            try:
                queries += 1
                failed += client.search(vector=vector, k=5).release_id != served_id
            except QueryFailed:
                failed += 1
            copies.delete(number)
            if number % 20 == 19:
                say(f"{number + 1} flips, {sum(refused.values())} refused")
        control = _decided(client, running, copies.write(flips + len(names))) == "served"
    return CorruptionFigures(counts, refused, served, queries, failed, control)


def _decided(client: Client, running: Service, release_id: str) -> str:
    """Returns what has become of a release, once the gateway has decided: `served` or `refused`."""
    end, state = time.monotonic() + _DECIDED_SECONDS, "unknown"
    while state not in ("served", "refused"):
        if time.monotonic() > end:
            raise RuntimeError(f"release {release_id} is still {state}:\n{running.gateway.tail()}")
        time.sleep(0.02)
        try:
            state = client.get_release(release_id).state
        except QueryFailed as error:
            state = error.reason
    return state


def _files(folder: pathlib.Path) -> list[str]:
    return sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())


def _flip(file: pathlib.Path, generator: np.random.Generator | None) -> None:
    data = bytearray(file.read_bytes())
    bit = int((generator or np.random.default_rng()).integers(8 * len(data)))
    data[bit // 8] ^= 1 << bit % 8
    # Not in place: the file is a link to the one that is served.
    file.unlink()
    file.write_bytes(data)
