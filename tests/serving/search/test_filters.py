import pathlib
from collections.abc import Iterator
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from lookalike.retrieval.v1 import retrieval_pb2
from serving import filter_messages
from serving.release.items import Item
from serving.release.reader import Release, open_release
from serving.search import filters
from serving.search.filter_language import FilterSyntaxError, parse
from serving.search.filters import AllOf, AnyOf, Comparison, Filter, FilterError, Negated, Operator
from serving.storage import open_store
from tests.serving.release_builder import build_release

# Every kind under one name, and what SQLite or Python might confuse.
VALUES: list[Any] = [
    1, 1.0, True, "1", 0, False, "", 2, 1.5, -3, -0.0, 2**53, 2**53 + 1, float(2**53), 2**63 - 1, -(2**63), 1e300,
    "a", "A", "true", "ä", "ab", "a\0b", "😀", "\uffff", "' OR 1=1 --", "1.0", None,
]  # fmt: skip
ITEMS = [
    Item(f"{i:03d}", "", "0" * 64, 10 + i, 20, {} if value is None else {"a": value, "b": i}, b"")
    for i, value in enumerate(VALUES)
]


@pytest.fixture(scope="module", params=[1, 3])
def release(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Release]:
    root: pathlib.Path = tmp_path_factory.mktemp("filters") / "root"
    release = open_release(open_store(root), build_release(root, items=ITEMS, shards=request.param))
    yield release
    release.close()


def matched(release: Release, filter_: Filter) -> set[str]:
    mask = filters.matches(filter_, release.where)
    return {item.item_id for item in release.items(np.flatnonzero(mask).tolist())}


def kind(value: Any) -> type:
    return bool if isinstance(value, bool) else str if isinstance(value, str) else float


def holds(filter_: Filter, item: Item) -> bool:
    """The oracle: what the proto's comments say, in Python."""
    if isinstance(filter_, Negated):
        return not holds(filter_.filter, item)
    if isinstance(filter_, AllOf | AnyOf):
        return (all if isinstance(filter_, AllOf) else any)(holds(part, item) for part in filter_.filters)
    value = getattr(item, filter_.name) if filter_.is_field else item.attributes.get(filter_.name)
    if value is None:
        return False
    compare = {
        Operator.EQUAL: lambda a, b: a == b,
        Operator.NOT_EQUAL: lambda a, b: a != b,
        Operator.LESS: lambda a, b: a < b,
        Operator.LESS_OR_EQUAL: lambda a, b: a <= b,
        Operator.GREATER: lambda a, b: a > b,
        Operator.GREATER_OR_EQUAL: lambda a, b: a >= b,
        Operator.IN: lambda a, b: a == b,
    }[filter_.operator]
    return any(kind(value) is kind(wanted) and compare(value, wanted) for wanted in filter_.values)


@pytest.mark.parametrize("operator", list(Operator), ids=lambda operator: operator.name)
def test_every_value_against_every_value(release: Release, operator: Operator) -> None:
    for value in VALUES:
        if value is None or (isinstance(value, bool) and operator not in (Operator.EQUAL, Operator.NOT_EQUAL)):
            continue
        comparison = Comparison("a", operator, (value,))
        assert matched(release, comparison) == {i.item_id for i in ITEMS if holds(comparison, i)}, value


def test_a_missing_attribute_matches_nothing_but_a_complement(release: Release) -> None:
    missing = {item.item_id for item in ITEMS if not item.attributes}
    everyone = {item.item_id for item in ITEMS}
    assert matched(release, Comparison("nobody", Operator.NOT_EQUAL, (1,))) == set()
    assert matched(release, Negated(Comparison("nobody", Operator.EQUAL, (1,)))) == everyone
    unequal = matched(release, Comparison("b", Operator.NOT_EQUAL, (0,)))
    assert matched(release, Negated(Comparison("b", Operator.EQUAL, (0,)))) == unequal | missing


def comparisons() -> st.SearchStrategy[Filter]:
    values = st.sampled_from([value for value in VALUES if value is not None])
    ordered = values.filter(lambda value: not isinstance(value, bool))
    operators = st.sampled_from([o for o in Operator if o is not Operator.IN])
    return st.one_of(
        st.builds(lambda o, v: Comparison("a", o, (v,)), operators, ordered),
        st.builds(lambda v: Comparison("a", Operator.IN, tuple(v)), st.lists(values, min_size=1, max_size=6)),
        st.builds(lambda o, v: Comparison("b", o, (v,)), operators, st.integers(-1, 30)),
        st.builds(lambda o, v: Comparison("width", o, (v,), True), operators, st.integers(8, 40)),
        st.builds(lambda o, v: Comparison("item_id", o, (f"{v:03d}",), True), operators, st.integers(0, 30)),
    )


def trees() -> st.SearchStrategy[Filter]:
    return st.recursive(
        comparisons(),
        lambda inner: st.one_of(
            st.builds(Negated, inner),
            st.builds(lambda parts: AllOf(tuple(parts)), st.lists(inner, min_size=1, max_size=3)),
            st.builds(lambda parts: AnyOf(tuple(parts)), st.lists(inner, min_size=1, max_size=3)),
        ),
        max_leaves=8,
    )


@hypothesis.given(filter_=trees())
@hypothesis.settings(
    max_examples=150, deadline=None, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
def test_a_tree_matches_what_it_says(release: Release, filter_: Filter) -> None:
    assert matched(release, filter_) == {item.item_id for item in ITEMS if holds(filter_, item)}


@hypothesis.given(filter_=trees())
@hypothesis.settings(max_examples=150, deadline=None)
def test_a_filter_survives_the_wire(filter_: Filter) -> None:
    data = filter_messages.to_message(filter_).SerializeToString()
    again = filter_messages.from_message(retrieval_pb2.Filter.FromString(data))
    assert filters.key(again) == filters.key(filter_)


def test_values_that_are_equal_in_python_have_keys_of_their_own() -> None:
    keys = {filters.key(Comparison("a", Operator.EQUAL, (value,))) for value in (1, 1.0, True, "1")}
    assert len(keys) == 4


@pytest.mark.parametrize("name", ["x' OR 1=1 --", 'a"b', "value", "row", "1; DROP TABLE items", "\0"])
def test_no_name_or_value_becomes_sql(release: Release, name: str) -> None:
    for comparison in (Comparison(name, Operator.EQUAL, (name,)), Comparison("a", Operator.IN, (name, name))):
        query, _ = comparison.to_sql()
        assert name == "row" or name == "value" or name not in query
        assert matched(release, comparison) == set()


@pytest.mark.parametrize(
    ("build", "part", "message"),
    [
        (lambda: Comparison("a", Operator.EQUAL, ()), "values", "= takes exactly one value, got 0"),
        (lambda: Comparison("a", Operator.LESS, (1, 2)), "values", "< takes exactly one value, got 2"),
        (lambda: Comparison("a", Operator.IN, ()), "values", "IN takes at least one value, got 0"),
        (lambda: Comparison("a", Operator.LESS, (True,)), "operator", "a boolean has no order: < can't compare it"),
        (lambda: Comparison("a", Operator.EQUAL, (float("nan"),)), "values", "must not be NaN"),
        (lambda: Comparison("a", Operator.EQUAL, (2**63,)), "values", "must fit into 64 bits, got 9223372036854775808"),
        (lambda: Comparison("a", Operator.EQUAL, ("x" * 4097,)), "values", "at most 4096 characters, got 4097"),
        (lambda: Comparison("", Operator.EQUAL, (1,)), "attribute", "1 to 4096 characters"),
        (
            lambda: Comparison("color", Operator.EQUAL, (1,), True),
            "field",
            "one of item_id, width, height, got 'color'",
        ),
        (lambda: Comparison("width", Operator.EQUAL, ("1",), True), "values", "width is a number, and can't be comp"),
        (lambda: Comparison("width", Operator.EQUAL, (True,), True), "values", "width is a number, and can't be comp"),
        (lambda: Comparison("item_id", Operator.LESS, (1,), True), "values", "item_id is text, and can't be compared"),
        (lambda: Comparison("a", Operator.IN, (1,) * 1025), "", "number of values must be at most 1024, got 1025"),
        (lambda: AllOf(()), "filters", "at least one filter"),
        (lambda: AnyOf(()), "filters", "at least one filter"),
        (lambda: AnyOf((ONE,) * 65), "", "number of comparisons must be at most 64, got 65"),
        (lambda: deep(17), "", "depth must be at most 16, got 17"),
        (lambda: AllOf((MANY, MANY)), "", "number of values must be at most 1024, got 2048"),
    ],
)
def test_what_is_no_filter(build: Any, part: str, message: str) -> None:
    with pytest.raises(FilterError, match=message) as caught:
        build()
    assert caught.value.part == part


ONE = Comparison("b", Operator.EQUAL, (1,))
MANY = Comparison("b", Operator.IN, (1,) * 1024)


def deep(depth: int) -> Filter:
    return ONE if depth == 1 else Negated(deep(depth - 1))


def test_a_filter_may_be_as_large_as_the_limits(release: Release) -> None:
    assert matched(release, deep(16)) == {item.item_id for item in ITEMS} - matched(release, ONE)
    assert matched(release, AnyOf((ONE,) * 64)) == matched(release, MANY) == matched(release, ONE) == {"001"}


# Messages

COMPARISON = retrieval_pb2.Comparison(
    attribute="a", operator=retrieval_pb2.OPERATOR_EQUAL, values=[retrieval_pb2.AttributeValue(int_value=1)]
)


def changed(**fields: Any) -> Any:
    message = retrieval_pb2.Comparison()
    message.CopyFrom(COMPARISON)
    for name, value in fields.items():
        message.ClearField(name)
        if value is not None:
            message.MergeFrom(retrieval_pb2.Comparison(**{name: value}))
    return retrieval_pb2.Filter(comparison=message)


def all_of(*parts: Any) -> Any:
    return retrieval_pb2.Filter(all_of=retrieval_pb2.FilterList(filters=parts))


GOOD = retrieval_pb2.Filter(comparison=COMPARISON)


@pytest.mark.parametrize(
    ("message", "path"),
    [
        (retrieval_pb2.Filter(), "filter"),
        (changed(attribute=None), "filter.comparison.operand"),
        (changed(attribute=""), "filter.comparison.attribute"),
        (changed(operator=0), "filter.comparison.operator"),
        (changed(operator=99), "filter.comparison.operator"),
        (changed(field=0), "filter.comparison.field"),
        (changed(field=77), "filter.comparison.field"),
        (changed(values=None), "filter.comparison.values"),
        (changed(values=[retrieval_pb2.AttributeValue()]), "filter.comparison.values[0]"),
        (changed(values=[retrieval_pb2.AttributeValue(int_value=1)] * 1025), "filter.comparison.values"),
        (retrieval_pb2.Filter(any_of=retrieval_pb2.FilterList()), "filter.any_of.filters"),
        (all_of(GOOD, all_of(GOOD, retrieval_pb2.Filter())), "filter.all_of.filters[1].all_of.filters[1]"),
        (retrieval_pb2.Filter(negated=changed(operator=0)), "filter.negated.comparison.operator"),
        (all_of(GOOD, changed(values=None)), "filter.all_of.filters[1].comparison.values"),
        (all_of(*[GOOD] * 65), "filter"),
        (all_of(*[GOOD] * 100_000), "filter"),
    ],
)
def test_a_wrong_message_is_named_by_its_path(message: Any, path: str) -> None:
    with pytest.raises(FilterError) as caught:
        filter_messages.from_message(message)
    assert caught.value.part == path


# The language


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('label = "9"', Comparison("label", Operator.EQUAL, ("9",))),
        ("width>=20", Comparison("width", Operator.GREATER_OR_EQUAL, (20,), True)),
        ("`width` >= 20", Comparison("width", Operator.GREATER_OR_EQUAL, (20,))),
        ("`net price` < -1.5e3", Comparison("net price", Operator.LESS, (-1500.0,))),
        ("x != TRUE", Comparison("x", Operator.NOT_EQUAL, (True,))),
        (r"""x = 'it\'s "so"' """, Comparison("x", Operator.EQUAL, ('it\'s "so"',))),
        (r'x = "a\\b"', Comparison("x", Operator.EQUAL, ("a\\b",))),
        ('x in (1, "a", false)', Comparison("x", Operator.IN, (1, "a", False))),
        ("x not in (1)", Negated(Comparison("x", Operator.IN, (1,)))),
        ("b=1 or b=1 and not b=1", AnyOf((ONE, AllOf((ONE, Negated(ONE)))))),
        ("(b=1 OR b=1) AND b=1 AND b=1", AllOf((AnyOf((ONE, ONE)), ONE, ONE))),
        ("not (b=1)", Negated(ONE)),
        ("größe-2.x = 1", Comparison("größe-2.x", Operator.EQUAL, (1,))),
    ],
)
def test_a_text_that_is_a_filter(text: str, expected: Filter) -> None:
    assert filters.key(parse(text)) == filters.key(expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"expected a name, not, or \( at character 1, but it ends"),
        ("label = nine", 'text stands in quotes: write "nine" at character 9'),
        ("a =", 'expected a value such as 20, "red" or true at character 4, but it ends'),
        ("a 1", "expected =, !=, <, <=, >, >= or in at character 3, but found 1"),
        ("a not = 1", "expected in at character 7, but found ="),
        ("a = 1 b", "expected and, or, or the end at character 7, but found b"),
        ("(a=1", r"expected \) at character 5, but it ends"),
        ("a in ()", r"expected a value .* at character 7, but found \)"),
        ("a in (1 2)", r"expected \) at character 9, but found 2"),
        ("and = 1", "expected a name"),
        ('"a" = 1', "expected a name"),
        ("a ~ 1", "can't read '~ 1' at character 3"),
        ("a = 1.2.3", "can't read '1.2.3' at character 5"),
        ('a = "open', "can't read '\"open' at character 5"),
        ('width = "x"', "width is a number, and can't be compared with 'x'"),
        ("a < true", "a boolean has no order"),
        ("a = 99999999999999999999", "must fit into 64 bits"),
        ("a = " + "9" * 5000, "limit"),
        ("(" * 5000 + "a=1", "at most 32 parentheses"),
        ("not " * 20 + "a=1", "depth must be at most 16"),
        (" or ".join(["a=1"] * 65), "comparisons must be at most 64, got 65"),
    ],
)
def test_a_text_that_is_none_says_where(text: str, message: str) -> None:
    with pytest.raises(FilterSyntaxError, match=message):
        parse(text)


@hypothesis.given(text=st.text(alphabet="ab1.\"'`()=!<>, notinadr\\-é", max_size=40))
@hypothesis.settings(max_examples=500, deadline=None)
def test_whatever_text_comes_it_is_a_filter_or_a_syntax_error(text: str) -> None:
    try:
        parse(text)
    except FilterSyntaxError as error:
        assert str(error)
