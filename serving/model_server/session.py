"""A SavedModel in a session, through TensorFlow's C API: loaded by the C++ that TF Serving loads it with."""

import collections
import ctypes
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2

from serving.model_server.c_api import Buffer, Output, Status, library
from serving.model_server.c_tensors import FedTensor, take_array
from serving.model_server.tensors import Array

_TAG = tf.saved_model.SERVING.encode()
# In the thread that calls, not in those that all sessions share.
_IN_CALLER = -1


class Session:
    """Loaded when it is made. Thread-safe. No method holds Python's lock while TensorFlow works."""

    def __init__(self, folder: Path) -> None:
        """folder: of the SavedModel. Raises what TensorFlow says (tf.errors)."""
        self._library = lib = library()
        self._graph = lib.TF_NewGraph()
        self._outputs: dict[str, Output] = {}
        # How many use the session; it is deleted by the last one.
        self._users = 1
        self._closed = False
        self._lock = threading.Lock()
        options, meta_graph = lib.TF_NewSessionOptions(), lib.TF_NewBuffer()
        how, kept = _buffer(tf.compat.v1.RunOptions(inter_op_thread_pool=_IN_CALLER))
        tags = (ctypes.c_char_p * 1)(_TAG)
        try:
            with Status() as status:
                self._session = lib.TF_LoadSessionFromSavedModel(
                    options, how, str(folder).encode(), tags, 1, self._graph, meta_graph, status.pointer
                )
                status.check()
            self._meta_graph = ctypes.string_at(meta_graph.contents.data, meta_graph.contents.length)
        except BaseException:
            lib.TF_DeleteGraph(self._graph)
            raise
        finally:
            del kept
            lib.TF_DeleteBuffer(meta_graph)
            lib.TF_DeleteSessionOptions(options)

    def take_meta_graph(self) -> meta_graph_pb2.MetaGraphDef:
        """Returns the graph and the entry points of the SavedModel; only once."""
        meta_graph, self._meta_graph = self._meta_graph, b""
        return meta_graph_pb2.MetaGraphDef.FromString(meta_graph)

    def run(
        self,
        feeds: Mapping[str, Array],
        fetches: Sequence[str],
        *,
        milliseconds: int | None = None,
        in_caller: bool = False,
    ) -> list[Array]:
        """Returns the tensors called `fetches`, such as `name:0`, of a run with `feeds` for others.

        milliseconds: the longest that it may take, None for ever. in_caller: run operations in the thread that calls.
        Raises KeyError for a tensor that there isn't, and what TensorFlow says.
        """
        inputs = [self._output(name) for name in feeds]
        outputs = [self._output(name) for name in fetches]
        options = tf.compat.v1.RunOptions(
            timeout_in_ms=milliseconds or 0, inter_op_thread_pool=_IN_CALLER if in_caller else 0
        )
        how, kept = _buffer(options) if milliseconds or in_caller else (None, b"")
        found = (ctypes.c_void_p * len(outputs))()
        with self._lock:
            if self._closed:
                raise tf.errors.CancelledError(None, None, "Session has been closed.")
            self._users += 1
        fed: list[FedTensor] = []
        made: collections.deque[int] = collections.deque()
        try:
            for array in feeds.values():
                fed.append(FedTensor(array))  # each is kept at once: the next one may fail
            with Status() as status:
                self._library.TF_SessionRun(
                    *(self._session, how),
                    *((Output * len(inputs))(*inputs), (ctypes.c_void_p * len(fed))(*[each.pointer for each in fed])),
                    *(len(inputs), (Output * len(outputs))(*outputs), found, len(outputs), None, 0, None),
                    status.pointer,
                )
                status.check()
            made.extend(tensor for tensor in found if tensor is not None)
            arrays: list[Array] = []
            while made:
                arrays.append(take_array(made.popleft()))
            return arrays
        finally:
            del kept
            for tensor in made:  # one before them was no array
                self._library.TF_DeleteTensor(tensor)
            for each in fed:
                each.free()
            self._drop()

    def close(self) -> None:
        """Cancels what still runs, and frees everything when it has ended."""
        with self._lock:
            closed, self._closed = self._closed, True
        if not closed:
            with Status() as status:
                self._library.TF_CloseSession(self._session, status.pointer)
            self._drop()

    def _drop(self) -> None:
        with self._lock:
            self._users -= 1
            last = self._users == 0
        if last:
            with Status() as status:
                self._library.TF_DeleteSession(self._session, status.pointer)
            self._library.TF_DeleteGraph(self._graph)

    def _output(self, tensor: str) -> Output:
        found = self._outputs.get(tensor)
        if found is None:
            name, _, index = tensor.partition(":")
            operation = self._library.TF_GraphOperationByName(self._graph, name.encode())
            if not operation or int(index or 0) >= self._library.TF_OperationNumOutputs(operation):
                raise KeyError(f"The name {tensor!r} refers to a Tensor which does not exist.")
            found = self._outputs[tensor] = Output(operation, int(index or 0))
        return found


def _buffer(message: object) -> tuple[Buffer, bytes]:
    """Returns a TF_Buffer with a message, and the bytes that it is of, which must be kept as long."""
    data: bytes = message.SerializeToString()  # type: ignore[attr-defined]  # a protobuf message
    return Buffer(ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p), len(data), None), data
