"""Whatever is sent as an image or as a request is answered, or refused for what it is.

  make bench NAME=fuzz                                          60 s
  .venv/pipeline/bin/python -m benchmarks.fuzz --seconds 600    longer

Hundreds of malformed and odd images through a running gateway and model server: each is answered or refused with
INVALID_ARGUMENT that names the field. Files that ask for much ("bombs"): what they cost before they are refused. And
atheris, a fuzzer led by coverage, on decoding and on whole requests, side by side; no input may take 2 s or 512 MB.
An input that broke something is left in benchmarks/results/fuzz/.
"""

import argparse
import collections
import json
import pathlib
import re
import shutil
import subprocess
import tempfile
import time
from typing import Any

import numpy as np

from benchmarks import _fuzz_seeds
from benchmarks._encoders import DIGIT, write_encoder
from benchmarks._malformed import Sample, bombs, samples
from benchmarks._processes import REPOSITORY, python_of, say, service
from benchmarks._releases import DIMENSION, make_embeddings, make_items, publish_release, write_body
from benchmarks._results import RESULTS, Goal, arguments, digits, report
from serving.client import Client, QueryFailed

LARGEST_SECONDS, LARGEST_MIB = 2, 512
# A row of the table, and what went wrong.
Part = tuple[dict[str, Any], list[str]]


def send_samples(client: Client, found: list[Sample]) -> Part:
    """Returns what became of the samples, and what went wrong with which."""
    codes: collections.Counter[str] = collections.Counter()
    faults, slowest = [], 0.0
    for sample in found:
        begun = time.perf_counter()
        try:
            client.search(image=sample.data, k=3)
            code = "OK"
            if sample.refused:
                faults.append(f"{sample.name}: was taken for an image.")
        except QueryFailed as error:
            code = error.code
            if (error.code, error.field) != ("INVALID_ARGUMENT", "image"):
                faults.append(f"{sample.name}: {error.code}, field {error.field!r}: {error}")
        codes[code] += 1
        slowest = max(slowest, time.perf_counter() - begun)
    return {"what": "malformed images", "inputs": len(found), **codes, "slowest s": slowest}, faults


def defuse(folder: pathlib.Path, client: Client) -> Part:
    """Returns what the bombs cost at worst, in a process of its own, and those that were not refused."""
    folder.mkdir()
    for number, bomb in enumerate(bombs()):
        (folder / f"{number:02d} {bomb.name}").write_bytes(bomb.data)
    command = [python_of("serving"), "-m", "benchmarks._bombs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, timeout=300, check=True)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    for line in lines:
        say(f"{line['file']}: {line['reason']}, {1e3 * line['seconds']:.1f} ms, {line['mib']:.1f} MiB")
    _, faults = send_samples(client, bombs())
    row = {"what": "bombs", "inputs": len(lines), "slowest s": max(line["seconds"] for line in lines)}
    row |= {"most MiB": max(line["mib"] for line in lines)}
    return row, [*faults, *(f"{line['file']}: was accepted." for line in lines if not line["reason"])]


class Fuzzer:
    """A process that tries inputs for some seconds."""

    def __init__(self, name: str, arguments: list[str], corpus: pathlib.Path, seconds: int) -> None:
        self.name = name
        self._corpus = corpus
        self._log = corpus.with_suffix(".log")
        self._broken = corpus.with_suffix(".broken")
        self._broken.mkdir()
        self._seconds = seconds
        limits = [f"-max_total_time={seconds}", f"-timeout={LARGEST_SECONDS}", f"-malloc_limit_mb={LARGEST_MIB}"]
        flags = [*limits, "-rss_limit_mb=2048", "-max_len=16384", "-print_final_stats=1", "-verbosity=1"]
        flags += [f"-artifact_prefix={self._broken}/", str(corpus)]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [python_of("serving"), "-m", f"benchmarks._fuzz_{name}", *arguments, *flags],
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=REPOSITORY,
            )

    def result(self) -> Part:
        """Waits for its end; returns what it did, and what broke."""
        try:
            status = self._process.wait(self._seconds + 120)
        finally:
            self.stop()
        log = self._log.read_text(errors="replace")
        stats = {name: int(value) for name, value in re.findall(r"stat::(\w+):\s+(\d+)", log)}
        row = {"what": f"atheris on {self.name}", "inputs": stats.get("number_of_executed_units", 0)}
        row |= {"most MiB": float(stats.get("peak_rss_mb", 0)), "new inputs": stats.get("new_units_added", 0)}
        faults = []
        if status:
            kept = RESULTS / "fuzz"
            kept.mkdir(parents=True, exist_ok=True)
            for file in self._broken.iterdir():
                shutil.copy(file, kept / f"{self.name}-{file.name}")
            faults.append(f"{self.name}: the fuzzer ended with {status}; inputs are in {kept}.\n{log[-3000:]}")
        return row, faults

    def stop(self) -> None:
        """Ends it, if it hasn't."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()


def fuzz(
    folder: pathlib.Path, root: pathlib.Path, encoder: str, seconds: int
) -> list[tuple[dict[str, Any], list[str]]]:
    """Runs both fuzzers, side by side."""
    images, requests = folder / "images", folder / "requests"
    for corpus, inputs in ((images, [s.data for s in samples()]), (requests, _fuzz_seeds.requests())):
        corpus.mkdir()
        for number, data in enumerate(inputs):
            (corpus / f"{number:04d}").write_bytes(data)
    fuzzers: list[Fuzzer] = []
    try:
        fuzzers.append(Fuzzer("images", [], images, seconds))
        fuzzers.append(Fuzzer("requests", [str(root), encoder], requests, seconds))
        return [fuzzer.result() for fuzzer in fuzzers]
    finally:
        for fuzzer in fuzzers:
            fuzzer.stop()


def measure(folder: pathlib.Path, flags: argparse.Namespace) -> tuple[list[dict[str, Any]], list[Goal]]:
    """Returns a row for each part, and the goals."""
    seconds = int(flags.seconds or (20 if flags.scale == "small" else 60))
    files = sorted((flags.images or digits(folder / "digits")).rglob("*.png"))
    embeddings, _ = make_embeddings(500, 1)
    items = make_items(500)
    write_encoder(folder / "encoder", [files[i].read_bytes() for i in range(3)], dimension=DIMENSION, shape=DIGIT)
    body = write_body(folder / "body", items, np.asarray(embeddings))
    publish_release(folder / "root", folder / "encoder", body, items, embeddings)
    with service(folder / "root", folder / "logs") as running, Client(running.gateway.address) as client:
        say(f"sending {len(samples())} malformed images")
        parts: list[Part] = [send_samples(client, samples())]
        parts.append(defuse(folder / "bombs", client))
        say(f"fuzzing for {seconds} s")
        parts += fuzz(folder, folder / "root", running.model_server.address, seconds)
        if not (running.gateway.alive and running.model_server.alive):
            parts.append(({"what": "a server died"}, [running.gateway.tail(), running.model_server.tail()]))
    rows = [row for row, _ in parts]
    faults = [fault for _, found in parts for fault in found]
    for fault in faults:
        say(fault)
    goals = [
        Goal("malformed images", rows[0]["inputs"], 500),
        Goal("anything but an answer or INVALID_ARGUMENT", len(faults), 0, at_most=True),
        Goal("a bomb at most, ms", 1e3 * rows[1]["slowest s"], 50, at_most=True),
        Goal("a bomb at most, MiB", rows[1]["most MiB"], 50, at_most=True),
    ]
    return rows, goals


def main() -> None:
    flags = arguments(__doc__, seconds="of fuzzing (default: 60, small: 20)")
    with tempfile.TemporaryDirectory() as scratch:
        rows, goals = measure(pathlib.Path(scratch), flags)
    report("fuzz", flags.scale, rows, goals)


if __name__ == "__main__":
    main()
