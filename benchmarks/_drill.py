"""Rolling restarts, an upgrade of the encoder with its release, and a rollback, under load."""

import collections
import dataclasses
import pathlib
import time
from collections.abc import Callable

from benchmarks._generations import Generations
from benchmarks._load import LoadGenerator, Trace, percentile
from benchmarks._processes import say
from benchmarks._ready import lives, serves
from benchmarks._rendered import Manifests, Pace, gateway_command, model_server_command
from benchmarks._rollout import InBackground, Slots, stopping
from serving.client import Client
from serving.release.retention import rollback
from serving.storage import open_store

# An image in four queries.
_IMAGE_EVERY = 4
_TAKEN_UP_SECONDS = 120.0
_LONGEST = 3600.0


@dataclasses.dataclass(frozen=True)
class DrillFigures:
    """What came of it. restarts: by what. failed: by code. wrong: which answers, and why. Times are seconds."""

    restarts: dict[str, int]
    queries: int
    rate: float
    failed: dict[str, int]
    checked: int
    wrong: list[str]
    upgrade_seconds: float
    rollback_seconds: float
    p50: float
    p99: float
    seconds: float
    without_counterpart: list[str]


def drill(
    folder: pathlib.Path,
    generations: Generations,
    *,
    overlay: str = "overlays/staging",
    restarts: int,
    rate: float,
    pace: Pace,
) -> DrillFigures:
    """Runs an overlay's gateways and model servers; of the restarts each gets half, both at once.

    generations: two of them, the first served. rate: of queries, each at a moment of its own.
    """
    manifests = Manifests(overlay)
    encoders = Slots("model-server", manifests.deployment("tensorflow-serving")["replicas"], folder / "logs")
    gateways = Slots("gateway", manifests.deployment("gateway")["replicas"], folder / "logs")
    _, missing = model_server_command(manifests, folder / "logs" / "flags", root=generations.root)

    def encoder(place: pathlib.Path) -> list[str]:
        return model_server_command(manifests, place, root=generations.root)[0]

    def gateway(place: pathlib.Path) -> list[str]:
        return gateway_command(manifests, place, root=generations.root, encoder=encoders.address, pace=pace)

    def restart(slots: Slots, count: int) -> None:
        name = "gateway" if slots is gateways else "tensorflow-serving"
        hook = manifests.container(name).get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        for number in range(count):
            slots.replace(
                number,
                gateway if slots is gateways else encoder,
                serves if slots is gateways else lives,
                ready_seconds=pace.ready_seconds(manifests.deployment(name)["minReadySeconds"]),
                pause_seconds=pace.seconds(hook),
            )
            if count <= 4 or (number + 1) % 5 == 0:
                say(f"{slots.name}: restart {number + 1} of {count}")

    with stopping(encoders, gateways), LoadGenerator(folder / "load") as generator:
        encoders.fill(encoder, lives)
        gateways.fill(gateway, serves)
        say(f"{len(gateways.addresses)} gateways and {len(encoders.addresses)} model servers are ready")
        vectors, images = generations.vector_requests(), generations.image_requests()
        kinds = [("image" if i % _IMAGE_EVERY == 0 else "vector", i) for i in range(len(vectors))]
        requests = generator.requests("drill", [(images if kind == "image" else vectors)[i] for kind, i in kinds])
        done, trace, answers = folder / "done", folder / "drill.npy", folder / "drill.answers"
        load = {"target": gateways.address, "requests": requests, "rate": rate, "seconds": _LONGEST, "stop": str(done)}
        generator.begin("Search", **load, trace=str(trace), answers=str(answers))
        begun = time.monotonic()
        try:
            first = generations.current.release_id
            counts = {"gateway": restarts - restarts // 2, "model server": restarts // 2}
            rollouts = [
                InBackground(lambda: restart(gateways, counts["gateway"])),
                InBackground(lambda: restart(encoders, counts["model server"])),
            ]
            for rollout in rollouts:
                rollout.result()
            upgrade = _taken_up(gateways, lambda: generations.advance().release_id)
            say(f"the release with another encoder is served after {upgrade:.1f} s")
            back = _taken_up(gateways, lambda: _roll_back(generations, first))
            say(f"the one before is served again after {back:.1f} s")
        finally:
            done.touch()
            figures = generator.result()
        elapsed = time.monotonic() - begun
    for text in figures["told"]:
        say(text)
    say(f"checking {figures['ok']} answers")
    checked, wrong = generations.wrong_answers(answers, kinds)
    calls = Trace(trace)
    latency = (calls.ended - calls.due)[calls.ok]
    codes = collections.Counter(figures["codes"])
    del codes["OK"]
    return DrillFigures(
        restarts=counts,
        queries=figures["calls"],
        rate=rate,
        failed=dict(codes),
        checked=checked,
        wrong=wrong,
        upgrade_seconds=upgrade,
        rollback_seconds=back,
        p50=percentile(latency, 50),
        p99=percentile(latency, 99),
        seconds=elapsed,
        without_counterpart=missing,
    )


def _roll_back(generations: Generations, release_id: str) -> str:
    rollback(open_store(generations.root), release_id, holder="drill")
    return release_id


def _taken_up(gateways: Slots, change: Callable[[], str]) -> float:
    """Returns the seconds until every gateway serves the release that `change` returns."""
    begun = time.monotonic()
    wanted = change()
    for address in gateways.addresses:
        with Client(address) as client:
            while client.get_release().release_id != wanted:
                if time.monotonic() > begun + _TAKEN_UP_SECONDS:
                    raise RuntimeError(f"{address} does not take up release {wanted}.")
                time.sleep(0.05)
    return time.monotonic() - begun
