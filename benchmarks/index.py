"""Our index beside those that people would pick instead: recall@10 against queries a second, on the same vectors.

  make bench NAME=index IMAGES=mnist/    a: 60,000 embeddings of our own encoder, trained here for an epoch on the part
                                         train/ of a labelled collection, asked with those of test/; and
                                         b: 1,000,000 vectors of 64 dimensions in clusters, 2,400 queries
  make bench NAME=index SCALE=small      the demo's digits by an untrained encoder, and 10,000 vectors
  python -m benchmarks.index --only a --embeddings FOLDER     vectors.npy and queries.npy, float32, of unit length

Each library builds and saves its index in a process of its own, on both cores, and is searched in another, all queries
in one call: by one thread, and by two (ours by two callers, the others by their own). Each is swept over the settings
that its documentation advises (benchmarks/_index_candidates.py); of those within reach of the targets the rate is the
median of 5 rounds, in which all libraries take turns. `at 0.95` is the fastest setting with a recall@10 of at least
0.95 over the queries; for ours, `as configured` is the one that the pipeline's own search for parameters chose on
other queries. Memory is what the process gained by loading and searching; on disk ours lies beside the embeddings,
which it needs and does not repeat, and which are counted. Truth is FAISS's brute force.
The clustered vectors are those of benchmarks/_releases.py, seed 0: 200 clusters of uneven size in 24 dimensions, turned
into 64, with noise.
"""

import argparse
import contextlib
import dataclasses
import json
import pathlib
import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks._index_candidates import Candidate, Setting, groups, others, ours, sweep_of
from benchmarks._index_curves import draw
from benchmarks._index_library import LIBRARIES, QUERIES, TRUTH, TUNING, VECTORS
from benchmarks._processes import REPOSITORY, python_of, say
from benchmarks._releases import make_embeddings
from benchmarks._results import RESULTS, Goal, digits, report

RUNS = {"small": 2, "full": 5}
TARGETS = (0.95, 0.99)
THREADS = (1, 2)
# A sweep goes on until it has this recall; what is below the other is not looked at again.
_ENOUGH, _LEAST = 0.996, 0.85
_AHEAD = 1.3  # times as fast, in the only run of the sweep
_EXACT_COMPARISONS = 12_000_000  # that exact search makes in a run, about
Vectors = npt.NDArray[np.float32]


@dataclasses.dataclass
class Point:
    """A setting of a candidate, and what was measured of it. rates: threads -> one a round."""

    setting: Setting
    recall: float
    rates: dict[int, list[float]] = dataclasses.field(default_factory=lambda: {threads: [] for threads in THREADS})

    def rate(self, threads: int) -> float:
        """Returns queries a second: the median of the rounds."""
        return float(np.median(self.rates[threads]))


class Library:
    """A candidate: built, and its process that answers jobs."""

    def __init__(self, candidate: Candidate, folder: pathlib.Path, queries: int) -> None:
        self.candidate = candidate
        self.points: list[Point] = []
        self._target = folder / re.sub(r"\W+", "-", candidate.title)
        self._queries = queries
        if candidate.library == "exact":
            self._queries = min(queries, max(20, _EXACT_COMPARISONS // len(np.load(folder / VECTORS, mmap_mode="r"))))
        self._command = [python_of(candidate.environment), "-m", "benchmarks._index_library"]
        arguments = [candidate.library, str(self._target), json.dumps(candidate.build)]
        said = self._target.with_suffix(".json")
        if not said.exists():
            command = [*self._command, "build", *arguments]
            built = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
            if built.returncode:
                raise RuntimeError(f"{candidate.title} could not be built:\n{built.stderr[-2000:]}")
            said.write_text(built.stdout.splitlines()[-1])
        self.said = json.loads(said.read_text())
        self.disk_mib, self.memory_mib = self.said["mib"], 0.0
        if candidate.environment == "serving":
            self.disk_mib += (folder / VECTORS).stat().st_size / 2**20
        self._process = subprocess.Popen(
            [*self._command, "search", *arguments],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._read()

    def ask(self, setting: Setting, threads: int) -> tuple[float, float]:
        """Returns (queries a second, recall@10) of one run over the queries."""
        assert self._process.stdin is not None
        job = {"setting": setting, "threads": threads, "queries": self._queries}
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        answer = self._read()
        self.memory_mib = answer["mib"]
        return answer["rate"], answer["recall"]

    def sweep(self) -> None:
        """Finds the recall of every setting worth it; keeps those near the targets that no other is far ahead of."""
        if self.candidate.target:
            # First what was chosen; it is kept whatever it gives.
            self.points.append(Point({}, self.ask({}, 1)[1]))
        found: list[tuple[float, Point]] = []
        for group in groups(self.candidate.settings or sweep_of(self.said["parameters"])):
            for setting in group:
                rate, recall = self.ask(setting, 1)
                if recall >= _LEAST:
                    found.append((rate, Point(setting, recall)))
                if recall >= _ENOUGH:
                    break
        self.points += [
            point
            for rate, point in found
            if not any(other.recall >= point.recall and faster > _AHEAD * rate for faster, other in found)
        ]
        say(f"{self.candidate.title}: built in {self.said['seconds']:.1f} s, {len(self.points)} settings")

    def measure(self) -> None:
        """One round."""
        for point in self.points:
            for threads in THREADS:
                point.rates[threads].append(self.ask(point.setting, threads)[0])

    def best(self, target: float, threads: int) -> Point | None:
        """Returns the fastest point with a recall of at least `target`."""
        enough = [point for point in self.points if point.recall >= target]
        return max(enough, key=lambda point: point.rate(threads), default=None)

    def stop(self) -> None:
        """Ends its process."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        # Libraries may print, too.
        while line := self._process.stdout.readline():
            if line.startswith("{"):
                found: dict[str, Any] = json.loads(line)
                return found
        raise RuntimeError(f"{self.candidate.title} ended with {self._process.wait()}.")


@contextlib.contextmanager
def running(candidates: Sequence[Candidate], folder: pathlib.Path, queries: int) -> Iterator[list[Library]]:
    """Builds every candidate and runs their processes as long as the block lasts."""
    libraries: list[Library] = []
    try:
        for candidate in candidates:
            libraries.append(Library(candidate, folder, queries))
            libraries[-1].sweep()
        yield libraries
    finally:
        for library in libraries:
            library.stop()


def compare(candidates: Sequence[Candidate], folder: pathlib.Path, runs: int) -> list[Library]:
    """Returns every library, measured in `runs` rounds. folder: with vectors, queries and tuning queries."""
    queries = len(np.load(folder / QUERIES, mmap_mode="r"))
    truth = [python_of("bench"), "-m", "benchmarks._index_library", "truth", "faiss", str(folder / TRUTH)]
    if not (folder / TRUTH).exists():
        subprocess.run(truth, check=True, cwd=REPOSITORY)
    with running(candidates, folder, queries) as libraries:
        for number in range(runs):
            for library in libraries:
                library.measure()
            say(f"round {number + 1} of {runs}")
        return libraries


def row_of(data: str, library: Library) -> dict[str, Any]:
    """Returns a line of the table."""
    row: dict[str, Any] = {"vectors": data, "index": library.candidate.title}
    for target in TARGETS:
        for threads in THREADS:
            best = library.best(target, threads)
            row[f"at {target}, {threads} thread{'s' * (threads > 1)}"] = None if best is None else best.rate(threads)
    if library.candidate.target:
        chosen = library.points[0]
        row |= {"as configured: recall@10": chosen.recall, "1 thread": chosen.rate(1), "2 threads": chosen.rate(2)}
        row["parameter search s"] = library.said["search_seconds"]
    row |= {"build s": library.said["seconds"], "disk MiB": library.disk_mib, "memory MiB": library.memory_mib}
    return row


def goals_of(data: str, libraries: Sequence[Library]) -> list[Goal]:
    """Returns how our index stands to the best of the others at each target."""
    goals = []
    for target in TARGETS:
        for threads in THREADS:
            ours_, theirs = (
                [
                    point.rate(threads)
                    for library in libraries
                    if bool(library.candidate.target) == own and (point := library.best(target, threads))
                ]
                for own in (True, False)
            )
            name = f"{data}: queries/s at {target} by {threads} threads, of the best other's"
            goals.append(Goal(name, max(ours_, default=0.0) / max(theirs), 1))
    return goals


def embed_collection(folder: pathlib.Path, images: pathlib.Path) -> None:
    """Writes the embeddings of a labelled collection's train part, and as queries those of its test part."""
    # TensorFlow is only needed here.
    from benchmarks._labelled import read
    from benchmarks._trained import train
    from benchmarks.encoders import recipe
    from components.evaluation.metrics import normalize

    collection = read(images)
    config = recipe("convolutional", collection, None, ["training.epochs=1"])
    encoder = train(config, collection, folder / "encoder", 10.0)[0]
    queries = normalize(encoder.embed(collection.test.images))
    order = np.random.default_rng(0).permutation(len(queries))
    save(folder, normalize(encoder.embed(collection.train.images)), queries[order])


def embed_digits(folder: pathlib.Path) -> None:
    """Writes embeddings of the demo's digits by an untrained encoder."""
    from benchmarks._encoders import write_encoder

    images = [file.read_bytes() for file in sorted(digits(folder / "digits").rglob("*.png"))]
    vectors = write_encoder(folder / "encoder", images, dimension=64).in_batches(images)
    order = np.random.default_rng(0).permutation(len(vectors))
    save(folder, vectors[order[1000:]], vectors[order[:1000]])


def save(folder: pathlib.Path, vectors: Vectors, queries: Vectors) -> None:
    """Writes what is searched, and the queries: a fifth, 1,000 at the most, to choose parameters by, and the others."""
    tuning = min(1000, len(queries) // 5)
    np.save(folder / VECTORS, np.ascontiguousarray(vectors))
    np.save(folder / TUNING, queries[:tuning])
    np.save(folder / QUERIES, queries[tuning : tuning + 5000])


def prepare(data: str, folder: pathlib.Path, flags: argparse.Namespace) -> None:
    """Writes the vectors and queries of `a` or `b`, where they aren't there."""
    if (folder / VECTORS).exists():
        return
    if data == "b":
        save(folder, *make_embeddings(*((6_000, 750) if flags.scale == "small" else (1_000_000, 3_000))))
    elif flags.embeddings:
        save(folder, np.load(flags.embeddings / VECTORS), np.load(flags.embeddings / QUERIES))
    elif flags.scale == "small":
        embed_digits(folder)
    else:
        embed_collection(folder, flags.images)


def candidates_for(folder: pathlib.Path, scale: str, libraries: str) -> list[Candidate]:
    """Returns ours and the others that are installed. libraries: names, with commas between; empty for all."""
    count, dimension = np.load(folder / VECTORS, mmap_mode="r").shape
    every = [*(ours(target) for target in TARGETS), *others(count, dimension)]
    if scale == "small":
        every = [dataclasses.replace(each, settings=each.settings[::3]) for each in every]
    python = python_of("bench")
    if scale == "full":
        # Not in the environment's lock: it comes as source only, and to build it takes a compiler and minutes.
        uv = [REPOSITORY / ".venv" / "bootstrap" / "bin" / "uv", "pip", "install", "-q", "--python", python]
        subprocess.run([*uv, "--no-deps", "--require-hashes", "-r", REPOSITORY / "requirements" / "hnswlib.lock"])
    there = subprocess.run([python, "-c", "import hnswlib"], capture_output=True).returncode == 0
    if not there:
        say("hnswlib is not installed and is left out")
    wanted = libraries.split(",") if libraries else [name for name in LIBRARIES if name != "hnswlib" or there]
    return [candidate for candidate in every if candidate.library in wanted]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", choices=("small", "full"), default="full", help="small: a quick look, as in CI")
    parser.add_argument("--images", type=pathlib.Path, help="a labelled collection, train/ and test/ (MNIST)")
    parser.add_argument("--embeddings", type=pathlib.Path, help="a folder of vectors.npy and queries.npy, for a")
    parser.add_argument("--libraries", default="", help=f"some of {', '.join(LIBRARIES)}")
    parser.add_argument("--work", type=pathlib.Path, help="where indexes stay; what is there isn't built again")
    parser.add_argument("--only", choices=("a", "b"), help="one of the two sets of vectors")
    flags = parser.parse_args()
    if flags.scale == "full" and flags.only != "b" and not (flags.images or flags.embeddings):
        parser.error("--images must name a labelled collection, or --embeddings a folder, where a is not left out.")
    subprocess.run([REPOSITORY / "requirements" / "install.sh", "bench"], check=True)
    rows: list[dict[str, Any]] = []
    goals: list[Goal] = []
    curves: dict[str, Any] = {}
    for data in (flags.only,) if flags.only else ("a", "b"):
        with tempfile.TemporaryDirectory() as scratch:
            folder = (flags.work or pathlib.Path(scratch)) / data
            folder.mkdir(parents=True, exist_ok=True)
            prepare(data, folder, flags)
            say(f"{data}: {np.load(folder / VECTORS, mmap_mode='r').shape}")
            libraries = compare(candidates_for(folder, flags.scale, flags.libraries), folder, RUNS[flags.scale])
        rows += [row_of(data, library) for library in libraries]
        goals += goals_of(data, libraries)
        curves[data] = {library.candidate.title: curve(library) for library in libraries}
    name = f"index-{flags.only}" if flags.only else "index"
    picture = (RESULTS if flags.scale == "full" else RESULTS / "small") / f"{name}.png"
    report(name, flags.scale, rows, goals if flags.scale == "full" else [], curves=curves)
    draw(picture, curves)


def curve(library: Library) -> dict[str, Any]:
    """Returns what was measured of a library, as a JSON value."""
    points = [
        {"setting": point.setting, "recall": point.recall}
        | {f"rate_{threads}": point.rate(threads) for threads in THREADS}
        for point in library.points
    ]
    return {"build": library.said.get("parameters", library.candidate.build), "points": points}


if __name__ == "__main__":
    main()
