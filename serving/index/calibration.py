"""How hard a built index has to be searched for a target of recall."""

import logging
import time
from collections.abc import Mapping
from typing import Any

from serving.index.choice import Choice
from serving.index.held_out import HeldOut
from serving.index.index import Embeddings, Index, Rows
from serving.index.kinds import build_index
from serving.index.parameter_search import search_parameters
from serving.index.parameters import IndexParameters
from serving.index.point import choose, frontier
from serving.index.sweep import Seconds, sweep, thread_seconds

_log = logging.getLogger(__name__)


def calibrate(
    index: Index,
    embeddings: Embeddings,
    queries: Embeddings,
    parameters: IndexParameters,
    target: float,
    *,
    rows: Rows | None = None,
    fixed: Mapping[str, Any] | None = None,
    build_seconds: float = 0.0,
    seconds: Seconds = thread_seconds,
) -> Choice:
    """Returns how hard to search `index`, which was built over all `embeddings` with `parameters`; see above.

    rows: where the queries are among the embeddings, each is left out of its own answer.
    """
    began = time.monotonic()
    held_out = HeldOut(embeddings, queries, rows)
    points = sweep(index, parameters, held_out, target, fixed=fixed or {}, build_seconds=build_seconds, seconds=seconds)
    point = choose(points, target)
    if point.recall < target:
        _log.warning("recall@10 of %.4f is not reached, %.4f is, by %s", target, point.recall, point.parameters)
    count = len(embeddings)
    taken = time.monotonic() - began
    return Choice(point.parameters, point, tuple(frontier(points, point)), target, count, count, len(queries), taken)


def build_for(embeddings: Embeddings, queries: Embeddings, target: float, **options: Any) -> tuple[Index, Choice]:
    """Returns an index over `embeddings` with a recall@10 of `target`, as search_parameters finds it, and its curve.

    options: of search_parameters.
    """
    found = search_parameters(embeddings, queries, target, **options)
    began = time.monotonic()
    index = build_index(embeddings, found.parameters)
    taken = time.monotonic() - began
    passed = {name: value for name, value in options.items() if name in ("rows", "fixed", "seconds")}
    choice = calibrate(index, embeddings, queries, found.parameters, target, build_seconds=taken, **passed)
    return index.tuned(choice.parameters), choice
