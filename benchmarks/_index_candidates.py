"""What benchmarks/index.py compares: each library, how it is built, and the settings that its documentation advises."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

Setting = dict[str, Any]
_EXPANSIONS = (10, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
_PROBES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)


@dataclasses.dataclass(frozen=True)
class Candidate:
    """An index. library, build: see _index_library. settings: of its searches, those that look at less first.

    environment: where it runs. title: for people. target: the recall that ours was configured for, 0 for the others.
    """

    title: str
    library: str
    build: Setting
    settings: tuple[Setting, ...]
    environment: str = "bench"
    target: float = 0.0


def ours(target: float) -> Candidate:
    """Returns our own index as the pipeline would configure it for a recall@10.

    The search for parameters is asked for a tenth less of what may be missed: other queries may be harder.
    """
    wanted = 1.0 - 0.9 * (1.0 - target)
    return Candidate(f"Lookalike, for {target}", "lookalike", {"target": wanted}, (), "serving", target)


def sweep_of(parameters: Setting) -> tuple[Setting, ...]:
    """Returns the settings of ours beside the chosen one, by what it was built with: ever more leaves."""
    return tuple({"leaves_to_search": probes} for probes in _PROBES if probes <= parameters["leaves"])


def others(count: int, dimension: int) -> Iterator[Candidate]:
    """Yields what there is beside ours, for `count` vectors.

    FAISS: HNSW with 32 links (its wiki's choice where memory is no concern), and inverted lists, 4 times the root of
    the count, flat or as 4-bit product codes of one or two dimensions that are ranked again (fast scan, "RFlat").
    hnswlib: the parameters that its documentation begins with. usearch: its defaults, in float32. A graph of a million
    is built with a smaller expansion where the library's own default is smaller: otherwise it takes many minutes.
    """
    yield Candidate("exact NumPy", "exact", {}, ({},), "serving")
    lists = round(4 * count**0.5)
    # One of each is enough for a quick look.
    thorough = 20_000 <= count < 200_000
    hnsw = tuple({"efSearch": ef} for ef in _EXPANSIONS)
    for links in (16, 32) if thorough else (32,):
        build = {"factory": f"HNSW{links},Flat", "efConstruction": 200 if thorough else 40}
        yield Candidate(f"FAISS HNSW{links}", "faiss", build, hnsw)
    flat = tuple({"nprobe": probes} for probes in _PROBES if probes <= lists)
    # Of 39 to 256 vectors a list that FAISS trains on.
    training = {"train": 64 * lists}
    yield Candidate("FAISS IVF, flat", "faiss", {"factory": f"IVF{lists},Flat"} | training, flat)
    codes = tuple({"nprobe": n, "k_factor_rf": k} for k in (4, 16, 64) for n in _PROBES if n <= lists)
    for codes_each in (dimension // 2, dimension) if thorough else (dimension,):
        factory = f"IVF{lists},PQ{codes_each}x4fs,RFlat"
        yield Candidate(f"FAISS IVF-PQ{codes_each}, fast scan", "faiss", {"factory": factory} | training, codes)
    expansions = tuple({"ef": ef} for ef in _EXPANSIONS)
    for links in (16, 32) if thorough else (16,):
        yield Candidate(f"hnswlib M={links}", "hnswlib", {"M": links, "ef_construction": 200}, expansions)
    expansions = tuple({"expansion_search": ef} for ef in _EXPANSIONS)
    for links in (16, 32) if thorough else (16,):
        build = {"connectivity": links, "expansion_add": 128, "dtype": "f32"}
        yield Candidate(f"usearch {links}", "usearch", build, expansions)


def groups(settings: Sequence[Setting]) -> list[list[Setting]]:
    """Returns the settings in runs that only look at ever more: what else they hold is the same in each."""
    found: dict[Any, list[Setting]] = {}
    for setting in settings:
        found.setdefault(setting.get("k_factor_rf"), []).append(setting)
    return list(found.values())
