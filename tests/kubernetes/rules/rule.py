"""A rule takes objects and says in words what is wrong with them."""

import functools
from collections.abc import Callable, Iterator

from tests.kubernetes.rendered import Object

Check = Callable[[list[Object]], Iterator[str]]
RULES: dict[str, Callable[[list[Object]], list[str]]] = {}


def rule(check: Check) -> Callable[[list[Object]], list[str]]:
    """Adds a rule under its name."""

    @functools.wraps(check)
    def faults(objects: list[Object]) -> list[str]:
        return list(check(objects))

    RULES[check.__name__] = faults
    return faults
