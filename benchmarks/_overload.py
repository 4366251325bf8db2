"""More queries than can be answered, from callers who don't wait."""

import dataclasses
import pathlib

import numpy as np

from benchmarks._generations import Generations
from benchmarks._load import LoadGenerator, Trace, percentile
from benchmarks._processes import say, service

IN_FLIGHT = 64
_TIMEOUT = 1.0
# RESOURCE_EXHAUSTED; and CANCELLED: all that gRPC can say for a gateway that has no time even to refuse. Our client
# makes RESOURCE_EXHAUSTED of it.
REJECTIONS = (8, 1)


@dataclasses.dataclass(frozen=True)
class OverloadFigures:
    """What came of it. Rates: queries a second; offered: what was sent. Times are seconds, memory MiB.

    rejection_p99: of RESOURCE_EXHAUSTED and CANCELLED. shares: of what became of the calls, by code. normal_after: when
    the last second ended that was not as good as before.
    """

    kind: str
    peak: float
    offered: float
    goodput: float
    admitted_p99: float
    rejection_p99: float
    shares: dict[str, float]
    normal_after: float
    resident_before: float
    resident_after: float
    generator_cpu: float
    worst_lag: float


def overload(
    folder: pathlib.Path, generations: Generations, kind: str, *, seconds: float, times: float = 3.0
) -> OverloadFigures:
    """Measures the peak in a closed loop, then offers `times` as much. kind: `image` or `vector`."""
    with (
        service(generations.root, folder / "logs") as running,
        LoadGenerator(folder / "load", "_flood") as generator,
    ):
        messages = generations.image_requests() if kind == "image" else generations.vector_requests()
        job = {"target": running.gateway.address, "requests": generator.requests(kind, messages), "timeout": _TIMEOUT}
        generator.run("Search", **job, in_flight=IN_FLIGHT, seconds=1.0)
        peak = max(
            generator.run("Search", **job, in_flight=n, seconds=max(1.0, seconds / 4))["rate"] for n in (16, IN_FLIGHT)
        )
        before = generator.run("Search", **job, rate=peak / 2, seconds=seconds / 2)
        resident = running.gateway.resident_mib()
        say(f"{kind}: peak {peak:.0f} queries/s, offering {times * peak:.0f}")
        trace = folder / f"overload-{kind}.npy"
        figures = generator.run("Search", **job, rate=times * peak, seconds=seconds, trace=str(trace))
        after_trace = folder / f"after-{kind}.npy"
        generator.run("Search", **job, rate=peak / 2, seconds=max(6.0, seconds / 2), trace=str(after_trace))
        calls, after = Trace(trace), Trace(after_trace)
        resident_after = running.gateway.resident_mib()
    span = calls.sent.max() - calls.sent.min()
    return OverloadFigures(
        kind=kind,
        peak=peak,
        offered=len(calls.sent) / span,
        goodput=float(calls.ok.sum()) / span,
        # From when a call was due: what the generator itself was late is part of it.
        admitted_p99=percentile((calls.ended - calls.due)[calls.ok], 99),
        rejection_p99=percentile((calls.ended - calls.due)[np.isin(calls.codes, REJECTIONS)], 99),
        shares={code: round(count / figures["calls"], 4) for code, count in figures["codes"].items()},
        normal_after=_normal_after(after, before["p99"]),
        resident_before=resident,
        resident_after=resident_after,
        generator_cpu=figures["cpu"],
        worst_lag=figures["worst_lag"],
    )


def _normal_after(calls: Trace, p99: float) -> float:
    """Returns the seconds after which no query failed any more, and the p99 of each second was at most thrice `p99`."""
    begun, last = calls.due.min(), 0.0
    for second in range(int(calls.due.max() - begun) + 1):
        inside = (calls.due >= begun + second) & (calls.due < begun + second + 1)
        if (inside & ~calls.ok).any() or percentile(calls.seconds[inside & calls.ok], 99) > max(3 * p99, 0.05):
            last = second + 1.0
    return last
