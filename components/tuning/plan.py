"""Where the parameters of an index come from: a rule, a search, or the release that a reindex builds on."""

import dataclasses
from typing import Any

from components.tuning.options import TuningOptions
from serving.index import EXACT_KINDS, IndexParameters
from serving.release.manifest import Manifest

# An index of fewer items is found as well by any parameters.
SEARCH_FROM = 1000
# A reindex keeps the parameters of its base until the largest shard has grown or shrunk by more than this factor.
GROWTH = 1.5


@dataclasses.dataclass(frozen=True)
class Plan:
    """How to find the parameters. method: `rule`, `search` or `base`; parameters: of `rule` and `base`.

    fixed: fields of IndexParameters that are given, for a search. base: the tuning of the release that is built on.
    """

    method: str
    parameters: IndexParameters
    fixed: dict[str, Any]
    base: dict[str, Any] | None = None


def plan(
    options: TuningOptions,
    rule: IndexParameters,
    stated: dict[str, Any],
    *,
    largest: int,
    dimension: int,
    encoder_digest: str,
    base: Manifest | None = None,
) -> Plan:
    """Returns where the parameters of an index come from.

    rule: the parameters by the rule of thumb, with what is stated. stated: fields of IndexParameters that the config
    gives. largest: items of the largest shard.
    """
    fits = options.limit is None or rule.bytes_per_item(dimension) <= options.limit
    # Who states how much is searched has chosen by himself.
    by_hand = {"leaves", "leaves_to_search"} <= stated.keys() or (rule.kind == "hamming" and "reorder" in stated)
    exact = rule.kind in EXACT_KINDS and (fits or "kind" in stated)
    if options.method == "rule" or by_hand or exact or largest < SEARCH_FROM:
        return Plan("rule", rule, stated)
    fixed = {**stated, "kind": "hamming" if rule.kind == "hamming" else "tree"}
    if base is not None and base.encoder.digest == encoder_digest:
        tuning = base.evaluation.get("tuning") or {}
        asked = tuning.get("options") == options.to_dict() and tuning.get("fixed") == fixed
        if asked and 1 / GROWTH <= largest / tuning["largest"] <= GROWTH:
            return Plan("base", IndexParameters.from_dict(base.index.parameters), fixed, tuning)
    return Plan("search", rule, fixed)
