"""ScaNN, imported as its version needs it. All that differs in code between the versions that the locks hold."""

import importlib.metadata
import sys
from typing import Any


def scann_pybind() -> Any:
    """Returns ScaNN's module of NumPy searchers and builders, `scann.scann_ops.py.scann_ops_pybind`.

    Imported when called, because who only reads items or builds nothing needn't have it.
    1.3.2 (pipeline, CPython 3.10) crashes unless TensorFlow was loaded before it, and the package's own __init__ sees
    to that. 1.4.2 (serving, and pipeline on CPython 3.11) needs no TensorFlow. Its TensorFlow op, which we don't use,
    is built for another TensorFlow than CPython 3.11's lane holds and would fail the import there: it is hidden, and
    the package does without, as it does where there is no TensorFlow.
    """
    if not importlib.metadata.version("scann").startswith("1.3."):
        # None in sys.modules makes an import raise ModuleNotFoundError, which the package expects.
        sys.modules.setdefault("scann.scann_ops.py.scann_ops", None)  # type: ignore[arg-type]
    import scann

    return scann.scann_ops_pybind
