"""What a fan-out makes of the latency of its leaves: the slowest of `N` decides.

Leaves are drawn independently from one measured distribution; what slows all of them at once (a pause of the root, a
full network) is not in it. A hedged request asks a second replica where the first has not answered after a while, and
takes whichever answer comes first (Dean and Barroso, *The Tail at Scale*, CACM 56(2), 2013).
"""

from typing import Any

import numpy as np
import numpy.typing as npt

LEAVES = (1, 4, 16, 64, 256)
HEDGE_AFTER = 0.95
_AT_ONCE = 2**22

Seconds = npt.NDArray[np.float64]


def slowest(
    leaf: Seconds, leaves: int, draws: int, generator: np.random.Generator, hedge_after: float | None = None
) -> Seconds:
    """Returns `draws` latencies of a fan-out over so many leaves. hedge_after: seconds, None for no hedging."""
    found = []
    step = max(1, _AT_ONCE // leaves)
    for start in range(0, draws, step):
        shape = (min(step, draws - start), leaves)
        drawn = generator.choice(leaf, shape)
        if hedge_after is not None:
            second = hedge_after + generator.choice(leaf, shape)
            drawn = np.where(drawn > hedge_after, np.minimum(drawn, second), drawn)
        found.append(drawn.max(axis=1))
    return np.concatenate(found)


def simulate(leaf: Seconds, draws: int = 20_000, seed: int = 0) -> list[dict[str, Any]]:
    """Returns a row for each number of leaves: milliseconds without and with a hedge after the 95th percentile."""
    generator = np.random.default_rng(seed)
    after = float(np.quantile(leaf, HEDGE_AFTER))
    rows = []
    for leaves in LEAVES:
        row: dict[str, Any] = {"leaves": leaves}
        for name, hedge in (("", None), ("hedged ", after)):
            p50, p99 = 1e3 * np.percentile(slowest(leaf, leaves, draws, generator, hedge), (50, 99))
            row |= {f"{name}p50 ms": float(p50), f"{name}p99 ms": float(p99)}
        rows.append(row)
    return rows
