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
