import hypothesis
from hypothesis import strategies as st

from serving.gateway.admission import Admission, Kind


def test_neither_kind_can_crowd_out_the_other() -> None:
    for kind, other in ((Kind.PLAIN, Kind.IMAGES), (Kind.IMAGES, Kind.PLAIN)):
        admission = Admission(16, 1000)
        assert [admission.enter(kind, 1) for _ in range(20)] == [True] * 12 + [False] * 8
        assert not admission.full
        assert [admission.enter(other, 1) for _ in range(20)] == [True] * 4 + [False] * 16
        assert admission.full
        assert admission.refused == {kind: 8, other: 16}


def test_room_comes_back() -> None:
    admission = Admission(4, 1000)
    assert [admission.enter(Kind.PLAIN, 1) for _ in range(4)] == [True, True, True, False]
    admission.leave(Kind.PLAIN, 1)
    assert admission.enter(Kind.PLAIN, 1)


def test_bytes_count_but_a_single_request_is_never_too_large() -> None:
    admission = Admission(16, 100)
    assert admission.enter(Kind.IMAGES, 500)
    assert not admission.enter(Kind.PLAIN, 1)
    admission.leave(Kind.IMAGES, 500)
    assert admission.enter(Kind.PLAIN, 60)
    assert not admission.enter(Kind.PLAIN, 41)
    assert admission.enter(Kind.PLAIN, 40)


@hypothesis.given(st.lists(st.tuples(st.sampled_from(Kind), st.integers(0, 50), st.booleans()), max_size=80))
def test_no_order_of_events_breaks_a_limit(events: list) -> None:
    admission, inside = Admission(8, 100), []
    for kind, size, leave in events:
        if leave and inside:
            admission.leave(*inside.pop(0))
        elif admission.enter(kind, size):
            inside.append((kind, size))
        assert len(inside) <= 8 and max(map([k for k, _ in inside].count, Kind)) <= 6
        assert len(inside) <= 1 or sum(size for _, size in inside) <= 100
    for entry in inside:
        admission.leave(*entry)
    assert admission.enter(Kind.PLAIN, 100)
