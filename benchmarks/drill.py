"""A rollout, an upgrade and a rollback of the service as its manifests describe it, while queries come.

  make bench NAME=drill                    50 rolling restarts
  make bench NAME=drill SCALE=small        2

The flags and files are those of kubernetes/overlays/staging as kubectl renders it: two gateways, two model servers
(ours in TF Serving's place), and one more of each while one is being replaced. Servers are taken in turn.
Times of waiting are a twentieth of those in the manifests, but not below what clients need to find a server that is
back. Nothing is tried again: a call that fails has failed. Every answer is compared with brute force over the release
that it names.
"""

import dataclasses
import pathlib
import tempfile

import numpy as np

from benchmarks._drill import DrillFigures, drill
from benchmarks._generations import Generations
from benchmarks._processes import say
from benchmarks._rendered import Pace
from benchmarks._results import Goal, arguments, digits, report

PACE = Pace(faster=20.0)
_QUERIES = 200


def two_generations(folder: pathlib.Path, images: pathlib.Path, items: int) -> Generations:
    """Publishes two generations of so many images, each with an encoder of its own."""
    files = sorted(images.rglob("*.png"))
    order = np.random.default_rng(0).permutation(len(files))[: items + _QUERIES]
    # Each picture once: of equal ones nobody could tell which was found.
    chosen = list(dict.fromkeys(files[i].read_bytes() for i in order))
    return Generations(folder, chosen[_QUERIES:], chosen[:_QUERIES], 2)


def goals_of(found: DrillFigures, restarts: int) -> list[Goal]:
    """Returns what must hold, whatever the machine."""
    return [
        Goal("rolling restarts under load", sum(found.restarts.values()), restarts),
        Goal("failed queries", sum(found.failed.values()), 0, at_most=True),
        Goal("wrong answers", len(found.wrong), 0, at_most=True),
    ]


def main() -> None:
    flags = arguments(__doc__)
    small = flags.scale == "small"
    restarts = 2 if small else 50
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch)
        generations = two_generations(
            folder / "generations", flags.images or digits(folder / "digits"), 500 if small else 4000
        )
        found = drill(folder / "drill", generations, restarts=restarts, rate=20.0 if small else 60.0, pace=PACE)
    for text in found.wrong[:10]:
        say(text)
    row = {**dataclasses.asdict(found), "wrong": len(found.wrong)}
    print(
        "; ".join(
            f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in row.items()
        )
    )
    report("drill", flags.scale, [], goals_of(found, restarts), figures=row)


if __name__ == "__main__":
    main()
