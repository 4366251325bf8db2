"""What an index may be built with."""

import pytest

from serving.index import BRUTE_FORCE_BELOW, IndexParameters, choose_parameters


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"kind": "hnsw"}, "kind must be one of"),
        ({"scoring": "fast"}, "scoring must be one of"),
        ({"leaves": 0}, "leaves must be a whole number of at least 1, got 0"),
        ({"leaves": 2.0}, "got 2.0"),
        ({"leaves": True}, "got True"),
        ({"leaves": 4, "leaves_to_search": 5}, r"leaves_to_search must be in \[1, 4\], got 5"),
        ({"reorder": -1}, "got -1"),
        ({"spill": 1}, "spill must be true or false, got 1"),
        ({"rerank": "disk"}, r"rerank must be one of \('memory', 'file'\), got 'disk'"),
    ],
)
def test_wrong_parameters_are_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        IndexParameters.from_dict({"kind": "tree", **wrong})


def test_chosen_parameters() -> None:
    assert choose_parameters(1, 16).kind == "brute_force"
    assert choose_parameters(BRUTE_FORCE_BELOW - 1, 16).kind == "brute_force"
    assert choose_parameters(BRUTE_FORCE_BELOW, 16).kind == "tree"
    big = choose_parameters(1_000_000, 64)
    assert (big.leaves, big.leaves_to_search) == (1000, 125)


def test_parameters_of_before_there_were_more_are_read_and_written_alike() -> None:
    # As a manifest holds them that an older pipeline wrote, and an older gateway reads.
    old = {"kind": "tree", "leaves": 9, "leaves_to_search": 3, "scoring": "hash", "hash_dimensions": 2}
    old |= {"reorder": 50, "training_sample": 100}
    assert IndexParameters.from_dict(old).to_dict() == old
    new = IndexParameters("tree", leaves=9, leaves_to_search=3, scoring="hash", spill=True, rerank="file")
    assert IndexParameters.from_dict(new.to_dict()) == new


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        (IndexParameters("brute_force"), 256),
        (IndexParameters("tree"), 264),
        (IndexParameters("tree", spill=True), 520),
        (IndexParameters("tree", scoring="hash"), 256 + 16 + 8),
        (IndexParameters("tree", scoring="hash", rerank="file"), 24),
        (IndexParameters("tree", scoring="hash", hash_dimensions=1, rerank="file"), 40),
        (IndexParameters("tree", scoring="hash", hash_dimensions=4, rerank="file", spill=True), 24),
        (IndexParameters("hamming"), 8),
    ],
)
def test_memory_of_an_item(parameters: IndexParameters, expected: float) -> None:
    assert parameters.bytes_per_item(64) == expected
