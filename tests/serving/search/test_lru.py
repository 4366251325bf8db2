from serving.search.lru import Lru


def test_what_was_asked_for_longest_ago_goes_first() -> None:
    lru: Lru[int, str] = Lru(2)
    lru.put([(1, "a"), (2, "b")])
    assert lru.get([1]) == {1: "a"}
    lru.put([(3, "c")])
    assert lru.get([1, 2, 3]) == {1: "a", 3: "c"}
    lru.put([(1, "A")])
    assert lru.get([1, 3]) == {1: "A", 3: "c"}


def test_one_that_may_hold_nothing_holds_nothing() -> None:
    lru: Lru[int, str] = Lru(0)
    lru.put([(1, "a")])
    assert lru.get([1]) == {}
