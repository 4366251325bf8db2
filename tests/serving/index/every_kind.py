"""Every kind of index, as the contract tests build it."""

from serving.index import IndexParameters

# So that none can miss anything.
EXACT = {
    "exact": IndexParameters("exact"),
    "brute_force": IndexParameters("brute_force"),
    "tree": IndexParameters("tree", leaves=7, leaves_to_search=7),
    "tree that hashes": IndexParameters(
        "tree", leaves=7, leaves_to_search=7, scoring="hash", hash_dimensions=2, reorder=2000
    ),
    "tree that spills": IndexParameters("tree", leaves=7, leaves_to_search=7, spill=True),
    "tree that hashes and spills": IndexParameters(
        "tree", leaves=7, leaves_to_search=7, scoring="hash", hash_dimensions=1, reorder=2000, spill=True
    ),
    "tree that re-ranks by file": IndexParameters(
        "tree", leaves=7, leaves_to_search=7, scoring="hash", hash_dimensions=4, reorder=2000, rerank="file"
    ),
    "hamming": IndexParameters("hamming", reorder=2000),
}
# So that each misses something.
NARROW = {
    "tree": IndexParameters("tree", leaves=40, leaves_to_search=2),
    "tree that hashes": IndexParameters("tree", leaves=40, leaves_to_search=2, scoring="hash", reorder=20),
    "tree that re-ranks by file": IndexParameters(
        "tree", leaves=40, leaves_to_search=2, scoring="hash", reorder=20, rerank="file"
    ),
    "hamming": IndexParameters("hamming", reorder=20),
}
