"""Pillow's warnings, kept from whoever calls us."""

import contextlib
import threading
import warnings
from collections.abc import Iterator

_lock = threading.Lock()
_depth = 0
_filters = contextlib.ExitStack()


@contextlib.contextmanager
def without_warnings() -> Iterator[None]:
    """Ignores what Pillow warns of: it concerns the file at hand, and the answer to it is an image or an ImageError.

    Python's filters belong to the process: threads that overlap here share one change of them.
    """
    global _depth
    with _lock:
        if not _depth:
            _filters.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", module=r"PIL\.")
        _depth += 1
    try:
        yield
    finally:
        with _lock:
            _depth -= 1
            if not _depth:
                _filters.close()
