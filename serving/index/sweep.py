"""What one built index gives by how hard it is searched: its curve of recall against speed, without building again."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Collection, Iterator

from serving.index.held_out import HeldOut
from serving.index.index import Index
from serving.index.parameters import IndexParameters
from serving.index.point import Point

Seconds = Callable[[Callable[[], object]], float]

_STEP = 1.5
_REORDER = 20  # the least candidates that are scored exactly: twice the neighbours that recall counts
_MOST_REORDER = 2560
_FINE = 0.03  # how near the fewest leaves are found, as a share of them
_FLAT = 8  # a curve is flat where it would take more than so many steps like the last to reach the target


def thread_seconds(work: Callable[[], object], repetitions: int = 3) -> float:
    """Returns the median time, in seconds, that the calling thread computes at `work`.

    ScaNN searches a batch in the thread that asks. Time of the thread and not of the clock: other work on the machine
    is not counted.
    """
    taken = []
    for _ in range(repetitions):
        began = time.thread_time()
        work()
        taken.append(time.thread_time() - began)
    return statistics.median(taken)


def sweep(
    index: Index,
    parameters: IndexParameters,
    held_out: HeldOut,
    target: float,
    *,
    fixed: Collection[str] = (),
    build_seconds: float = 0.0,
    seconds: Seconds = thread_seconds,
) -> list[Point]:
    """Returns points of `index` up to a recall@10 of `target` and one step beyond, or as far as it gets.

    Args:
      index: built with `parameters`.
      held_out: the queries, over the same embeddings.
      fixed: of `leaves_to_search` and `reorder`, what stays as it is in `parameters`.
      build_seconds: what building the index took, for the points.
      seconds: measures how long some work takes.
    """

    def measure(tried: IndexParameters) -> Point:
        tuned = index.tuned(tried)
        taken = seconds(lambda: tuned.search(held_out.queries, held_out.asked))
        return Point(
            parameters=tried,
            recall=held_out.recall(tuned),
            queries_per_second=len(held_out.queries) / max(taken, 1e-9),
            bytes_per_item=tried.bytes_per_item(index.dimension),
            build_seconds=build_seconds,
        )

    if parameters.kind == "hamming":
        return climb(measure, parameters, "reorder", 1 if "reorder" in fixed else index.count, target)
    leaves = 1 if "leaves_to_search" in fixed else parameters.leaves
    if parameters.kind != "tree" or parameters.scoring == "exact":
        return climb(measure, parameters, "leaves_to_search", leaves, target)
    points: list[Point] = []
    best = 0.0
    for reorder in _depths(parameters, index.count, "reorder" in fixed):
        tried = dataclasses.replace(parameters, reorder=reorder)
        curve = climb(measure, tried, "leaves_to_search", leaves, target)
        points += curve
        fastest = max((point.queries_per_second for point in curve if point.recall >= target), default=0.0)
        if best and fastest <= best:
            break  # deeper costs more, and is not needed
        best = max(best, fastest)
    return points


def climb(
    measure: Callable[[IndexParameters], Point], parameters: IndexParameters, name: str, most: int, target: float
) -> list[Point]:
    """Returns what `measure` says of ascending values of the parameter `name`, up to the least that reaches `target`.

    most: the highest value that makes sense; 1 leaves the parameter as it is.
    """

    def at(value: int) -> Point:
        return measure(dataclasses.replace(parameters, **{name: value}))  # type: ignore[arg-type]

    if most == 1:
        return [measure(parameters)]
    values, points = [1], [at(1)]
    while points[-1].recall < target:
        # Exact scoring finds everything in the end; hashing may not.
        if values[-1] == most or (parameters.scoring == "hash" and _is_flat([p.recall for p in points], target)):
            return points
        values.append(min(most, max(values[-1] + 1, round(values[-1] * _STEP))))
        points.append(at(values[-1]))
    low, high = (values[-2] if len(values) > 1 else 0), values[-1]
    while high - low > max(1, _FINE * high):
        middle = (low + high) // 2
        point = at(middle)
        points.append(point)
        low, high = (low, middle) if point.recall >= target else (middle, high)
    beyond = min(most, max(values[-1] + 1, round(values[-1] * _STEP)))
    return points + ([at(beyond)] if beyond > values[-1] else [])


def _is_flat(recalls: list[float], target: float) -> bool:
    if len(recalls) < 6:
        return False
    return all(target - recalls[at] > _FLAT * max(0.0, recalls[at] - recalls[at - 1]) for at in (-1, -2))


def _depths(parameters: IndexParameters, count: int, fixed: bool) -> Iterator[int]:
    if fixed:
        yield parameters.reorder
        return
    depth = _REORDER
    while depth < count and depth <= _MOST_REORDER:
        yield depth
        depth *= 2
