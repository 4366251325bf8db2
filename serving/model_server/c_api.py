"""The part of TensorFlow's C API (tensorflow/c/c_api.h, which it keeps stable) that running a SavedModel takes.

Python's own session holds Python's lock for much of a load, and makes Python objects of the graph that nobody needs.
"""

import ctypes
import functools
import pathlib
import sys
from typing import Any

import tensorflow as tf

_POINTER = ctypes.c_void_p


class Buffer(ctypes.Structure):
    """TF_Buffer."""

    _fields_ = (("data", _POINTER), ("length", ctypes.c_size_t), ("deallocator", _POINTER))


class Output(ctypes.Structure):
    """TF_Output: which tensor of the graph. operation: a TF_Operation, index: of its outputs."""

    _fields_ = (("operation", _POINTER), ("index", ctypes.c_int))


_BUFFER, _OUTPUTS, _POINTERS = ctypes.POINTER(Buffer), ctypes.POINTER(Output), ctypes.POINTER(_POINTER)
_SIZE = ctypes.c_size_t
# What may take long: others get Python's lock meanwhile. Name: result and arguments.
_LONG: dict[str, tuple[Any, ...]] = {
    "TF_LoadSessionFromSavedModel": (
        *(_POINTER, _POINTER, _BUFFER, ctypes.c_char_p, ctypes.POINTER(ctypes.c_char_p), ctypes.c_int),
        *(_POINTER, _BUFFER, _POINTER),
    ),
    "TF_SessionRun": (
        *(None, _POINTER, _BUFFER, _OUTPUTS, _POINTERS, ctypes.c_int, _OUTPUTS, _POINTERS, ctypes.c_int),
        *(_POINTERS, ctypes.c_int, _BUFFER, _POINTER),
    ),
    "TF_CloseSession": (None, _POINTER, _POINTER),
    "TF_DeleteSession": (None, _POINTER, _POINTER),
    "TF_DeleteGraph": (None, _POINTER),
}
# What takes no time: to give the lock away and wait for it again would.
_SHORT: dict[str, tuple[Any, ...]] = {
    "TF_NewStatus": (_POINTER,),
    "TF_DeleteStatus": (None, _POINTER),
    "TF_GetCode": (ctypes.c_int, _POINTER),
    "TF_Message": (ctypes.c_char_p, _POINTER),
    "TF_NewBuffer": (_BUFFER,),
    "TF_DeleteBuffer": (None, _BUFFER),
    "TF_NewGraph": (_POINTER,),
    "TF_GraphOperationByName": (_POINTER, _POINTER, ctypes.c_char_p),
    "TF_OperationNumOutputs": (ctypes.c_int, _POINTER),
    "TF_NewSessionOptions": (_POINTER,),
    "TF_DeleteSessionOptions": (None, _POINTER),
    "TF_AllocateTensor": (_POINTER, ctypes.c_int, ctypes.POINTER(ctypes.c_int64), ctypes.c_int, _SIZE),
    "TF_DeleteTensor": (None, _POINTER),
    "TF_TensorType": (ctypes.c_int, _POINTER),
    "TF_NumDims": (ctypes.c_int, _POINTER),
    "TF_Dim": (ctypes.c_int64, _POINTER, ctypes.c_int),
    "TF_TensorByteSize": (_SIZE, _POINTER),
    "TF_TensorData": (_POINTER, _POINTER),
    "TF_StringCopy": (None, _POINTER, ctypes.c_char_p, _SIZE),
    "TF_StringDealloc": (None, _POINTER),
    "TF_StringGetSize": (_SIZE, _POINTER),
    "TF_StringGetDataPointer": (_POINTER, _POINTER),
}


class Library:
    """The functions, by their names. A void* is an int, or None for null."""

    def __init__(self, file: pathlib.Path) -> None:
        for library, functions in ((ctypes.CDLL(str(file)), _LONG), (ctypes.PyDLL(str(file)), _SHORT)):
            for name, (result, *arguments) in functions.items():
                function = getattr(library, name)
                function.restype, function.argtypes = result, arguments
                setattr(self, name, function)

    def __getattr__(self, name: str) -> Any:
        # For type checkers: all that there are were set.
        raise AttributeError(f"{name} is not among the functions that are used.")


@functools.cache
def library() -> Library:
    """Returns TensorFlow's library, the one that its Python has loaded."""
    name = "libtensorflow_cc.2.dylib" if sys.platform == "darwin" else "libtensorflow_cc.so.2"
    return Library(pathlib.Path(tf.sysconfig.get_lib()) / name)


class Status:
    """TF_Status, for one call after the other; a context manager."""

    def __init__(self) -> None:
        self._library = library()
        self.pointer = self._library.TF_NewStatus()

    def check(self) -> None:
        """Raises what TensorFlow's Python raises for an error (tf.errors)."""
        code = self._library.TF_GetCode(self.pointer)
        if code:
            message = self._library.TF_Message(self.pointer).decode(errors="replace")
            error: tf.errors.OpError = tf.compat.v1.errors.exception_type_from_error_code(code)(None, None, message)
            raise error

    def __enter__(self) -> "Status":
        return self

    def __exit__(self, *_: object) -> None:
        self._library.TF_DeleteStatus(self.pointer)
