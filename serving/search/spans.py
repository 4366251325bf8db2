"""Steps of a request, for who traces them: a step is a context manager around the work."""

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager

# Given the step's name.
Span = Callable[[str], AbstractContextManager[object]]
_NOTHING = contextlib.nullcontext()


def no_span(name: str) -> AbstractContextManager[object]:
    """Traces nothing."""
    return _NOTHING
