"""What the page says of near-duplicates."""

import pytest

from components.index_report import render_index_report

EVALUATION = {
    "kind": "exact",
    "count": 100,
    "shards": 1,
    "queries": 10,
    "gate": {"k": 10, "recall": 1.0, "min_recall": 0.99, "met": True},
    "queries_per_second": 1000.0,
    "tuning": {"method": "rule"},
}


@pytest.mark.parametrize(("items", "warned"), [(2, False), (10, False), (11, True), (100, True)])
def test_where_very_many_are_grouped_it_says_so(items, warned):
    found = {"groups": 1, "identical": 0, "items": items, "hamming": 10, "cosine": 0.9}
    page = render_index_report({**EVALUATION, "duplicates": found}, b"png")
    assert f"Groups of near-duplicates: 1 (0 of identical content), of {items} items" in page
    assert (f"{items}% of all items are in a group" in page) == warned
