"""How soon a gateway answers, and how large what it runs in is.

  make bench NAME=startup                  a release of 60,000 items; both image recipes installed (minutes)
  make bench NAME=startup SCALE=small      5,000 items; the gateway's recipe only

Ready is what the readiness probe asks for: a verified release is served, and the encoder has answered its probe. The
gateway is started as its container would be, in an environment made by the recipe's own install steps, with the model
server already there. The first start reads what the file cache may not hold; the median is of those after it.
"""

import pathlib
import platform
import statistics
import subprocess
import tempfile
import time
from typing import Any

from benchmarks._encoders import DIGIT, write_encoder
from benchmarks._processes import Measured, model_server_command, say, started
from benchmarks._ready import serves
from benchmarks._recipe import install, size_mib
from benchmarks._releases import DIMENSION, make_embeddings, make_items, publish_release, write_body
from benchmarks._results import Goal, arguments, digits, report

STARTS = 7
# What the newer lane needs a newer machine for.
_OLDER_LANE = {"BASE": f"python:3.10-slim-bookworm@sha256:{64 * '0'}", "LOCK": "pipeline"}


def seconds_to_ready(command: list[str], folder: pathlib.Path) -> tuple[float, float, float]:
    """Starts a gateway; returns the seconds until it listens and until it is ready, and its memory then, MiB."""
    begun = time.monotonic()
    gateway = Measured("gateway", command, folder)
    try:
        address = gateway.address
        listens = time.monotonic() - begun
        while not serves(address):
            if not gateway.alive:
                raise RuntimeError(gateway.tail())
            time.sleep(0.01)
        return listens, time.monotonic() - begun, gateway.resident_mib()
    finally:
        gateway.stop()


def measure_starts(folder: pathlib.Path, environment: pathlib.Path, images: pathlib.Path, items: int) -> dict[str, Any]:
    """Returns the figures of several starts."""
    files = sorted(images.rglob("*.png"))[:64]
    say(f"publishing a release of {items} items")
    embeddings, _ = make_embeddings(items, 1)
    listed = make_items(items)
    body = write_body(folder / "body", listed, embeddings)
    write_encoder(folder / "encoder", [file.read_bytes() for file in files], dimension=DIMENSION, shape=DIGIT)
    root = folder / "root"
    publish_release(root, folder / "encoder", body, listed, embeddings)
    with started("model-server", model_server_command(root), folder / "logs") as encoder:
        command = [str(environment / "bin" / "lookalike"), "gateway", "--serving-root", str(root)]
        command += ["--encoder", encoder.address, "--metrics-port", "0"]
        starts = [seconds_to_ready(command, folder / "logs") for _ in range(STARTS)]
    for listens, ready, memory in starts:
        say(f"listens after {listens:.2f} s, ready after {ready:.2f} s, {memory:.0f} MiB")
    again = starts[1:]
    return {
        "items": items,
        "listens s": statistics.median(start[0] for start in again),
        "ready s": statistics.median(start[1] for start in again),
        "first ready s": starts[0][1],
        "MiB": statistics.median(start[2] for start in again),
    }


def _glibc() -> tuple[int, ...]:
    return tuple(int(part) for part in platform.libc_ver()[1].split("."))


def main() -> None:
    flags = arguments(__doc__)
    small = flags.scale == "small"
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch)
        rows: list[dict[str, Any]] = []
        environments = {}
        for recipe in ["gateway.Dockerfile"] if small else ["gateway.Dockerfile", "pipeline.Dockerfile"]:
            say(f"running the install steps of {recipe}")
            begun = time.monotonic()
            lane = _OLDER_LANE if recipe == "pipeline.Dockerfile" and _glibc() < (2, 39) else {}
            environments[recipe] = environment = install(recipe, folder / recipe, **lane)
            python = subprocess.run([environment / "bin" / "python", "-V"], capture_output=True, text=True, check=True)
            row = {"environment": recipe, "python": python.stdout.split()[1], "MiB": size_mib(environment)}
            rows.append({**row, "installed in s": time.monotonic() - begun})
            say(f"{recipe}: {row['MiB']:.0f} MiB")
        found = measure_starts(
            folder,
            environments["gateway.Dockerfile"],
            flags.images or digits(folder / "digits"),
            5_000 if small else 60_000,
        )
    goals = [Goal("seconds until a gateway is ready", found["ready s"], 2.0, at_most=True)]
    report("startup", flags.scale, [*rows, {"environment": "gateway, started", **found}], [] if small else goals)


if __name__ == "__main__":
    main()
