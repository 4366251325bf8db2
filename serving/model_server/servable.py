"""One loaded version of a model: a SavedModel in a session of its own.

Loaded by the C++ of TF Serving, so what loads here loads there, and an export whose variables only Python can restore
fails here too. Not by `tf.saved_model.load`; and not by `tf.compat.v1.saved_model.load`, which restores with the same
op, but takes half as much again of a processor, holds Python's lock in between, up to 30 ms at a time, and leaves
Python objects of the graph: requests to the version that is served had to wait for all of it. And a session has a
timeout for each run, a function has none.
"""

import math
import pathlib
import threading
from collections.abc import Mapping, Sequence

from serving.model_server.errors import failed_precondition, invalid_argument, not_found
from serving.model_server.session import Session
from serving.model_server.signature import Signature, read_signature, runs
from serving.model_server.tensors import Array
from serving.spare_time import SpareTime

DEFAULT_SIGNATURE = "serving_default"
_VARIABLES = {"VarHandleOp", "VariableV2", "Variable"}


class Servable:
    """A version that is ready to run. Thread-safe."""

    def __init__(self, session: Session) -> None:
        self._session = session
        meta_graph = session.take_meta_graph()
        self.signature_defs = dict(meta_graph.signature_def)
        self.has_variables = any(node.op in _VARIABLES for node in meta_graph.graph_def.node)
        self._signatures = {n: read_signature(n, d) for n, d in self.signature_defs.items() if runs(d)}

    def signature(self, name: str) -> Signature:
        """Returns the signature called `name`, or the default one for an empty name."""
        name = name or DEFAULT_SIGNATURE
        if name not in self._signatures:
            raise failed_precondition(f'Serving signature key "{name}" not found.')
        return self._signatures[name]

    def run(
        self,
        signature: Signature,
        inputs: Mapping[str, Array],
        outputs: Sequence[str],
        timeout: float | None,
        *,
        in_caller: bool = False,
    ) -> dict[str, Array]:
        """Runs the graph. timeout: seconds, or None for ever. Raises ServingError or a TensorFlow error.

        in_caller: in the thread that calls, as far as can be.
        """
        feeds = {spec.tensor: inputs[alias] for alias, spec in signature.inputs.items()}
        fetches = [signature.outputs[alias].tensor for alias in outputs]
        milliseconds = None if timeout is None else max(1, math.ceil(timeout * 1000))
        try:
            arrays = self._session.run(feeds, fetches, milliseconds=milliseconds, in_caller=in_caller)
        except (ValueError, TypeError, KeyError) as error:
            # What is wrong before anything runs, or can't be sent: a name or a type.
            raise invalid_argument(str(error)) from error
        return dict(zip(outputs, arrays, strict=True))

    def close(self) -> None:
        """Frees the variables, and cancels what still runs."""
        self._session.close()


def load_servable(folder: pathlib.Path, spare_time: SpareTime) -> Servable:
    """Loads a SavedModel as TF Serving does, in spare time."""
    if not any((folder / name).is_file() for name in ("saved_model.pb", "saved_model.pbtxt")):
        # TF Serving's text, which tells this from a model that is broken.
        raise not_found(f"Could not find SavedModel .pb or .pbtxt at supplied export directory path: {folder}")
    servable = Servable(spare_time.run(lambda: Session(folder), Session.close))
    if servable.has_variables and not (folder / "variables" / "variables.index").is_file():
        # TensorFlow takes a SavedModel without that file for one without variables, and each request would fail.
        servable.close()
        raise not_found(f"The SavedModel's graph has variables, and {folder / 'variables'} holds none.")
    return servable


class Handle:
    """A servable in use by any number of requests, each within its own `with`."""

    def __init__(self, name: str, version: int, servable: Servable) -> None:
        self.name = name
        self.version = version
        self.servable = servable
        self._users = 0
        self._abandoned = False
        self._changed = threading.Condition()

    def acquire(self) -> "Handle":
        """Counts a user, until the end of its `with`; returns the handle."""
        with self._changed:
            self._users += 1
        return self

    def __enter__(self) -> "Handle":
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._users -= 1
            self._changed.notify_all()

    def drain(self) -> None:
        """Waits until nobody uses the servable (or it is abandoned), then closes it. Nobody new may come."""
        with self._changed:
            self._changed.wait_for(lambda: self._users == 0 or self._abandoned)
        self.servable.close()

    def abandon(self) -> None:
        """Lets `drain` close the servable at once: what still runs in it is cancelled."""
        with self._changed:
            self._abandoned = True
            self._changed.notify_all()
