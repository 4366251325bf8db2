"""TF_Tensor of TensorFlow's C API to NumPy, and back. Strings are object arrays of bytes."""

import ctypes

import numpy as np
import tensorflow as tf

from serving.model_server.c_api import library
from serving.model_server.tensors import Array

_STRING_BYTES = 24  # sizeof(TF_TString)


class FedTensor:
    """A new TF_Tensor with what an array holds, until it is freed. pointer: to it."""

    def __init__(self, array: Array) -> None:
        lib = library()
        strings = array.dtype == object
        self._strings = array.size if strings else 0
        dtype = tf.string if strings else tf.dtypes.as_dtype(array.dtype)
        size = _STRING_BYTES * array.size if strings else array.nbytes
        dims = (ctypes.c_int64 * array.ndim)(*array.shape)
        self.pointer: int = lib.TF_AllocateTensor(dtype.as_datatype_enum, dims, array.ndim, size)
        data = lib.TF_TensorData(self.pointer)
        if strings:
            # All zeros is an empty string.
            ctypes.memset(data, 0, size)
            copy = lib.TF_StringCopy
            for place, text in enumerate(array.flat):
                copy(data + _STRING_BYTES * place, text, len(text))
        elif size:
            ctypes.memmove(data, np.ascontiguousarray(array).ctypes.data, size)

    def free(self) -> None:
        """Frees it, when no run needs it any more."""
        lib = library()
        # Whoever allocates a tensor of strings frees what they hold.
        if self._strings:
            data = lib.TF_TensorData(self.pointer)
            for place in range(self._strings):
                lib.TF_StringDealloc(data + _STRING_BYTES * place)
        lib.TF_DeleteTensor(self.pointer)


def take_array(tensor: int) -> Array:
    """Returns what a TF_Tensor that a run has made holds, and frees it. Raises ValueError for what is no array."""
    lib = library()
    try:
        dtype = tf.dtypes.as_dtype(lib.TF_TensorType(tensor))
        shape = tuple(lib.TF_Dim(tensor, axis) for axis in range(lib.TF_NumDims(tensor)))
        data = lib.TF_TensorData(tensor)
        if dtype == tf.string:
            array = np.empty(shape, object)
            flat = array.reshape(-1)
            for place in range(flat.size):
                at = data + _STRING_BYTES * place
                flat[place] = ctypes.string_at(lib.TF_StringGetDataPointer(at), lib.TF_StringGetSize(at))
            return array
        if dtype in (tf.resource, tf.variant):
            raise ValueError(f"an output of type {dtype.name} can't be sent.")
        array = np.empty(shape, dtype.as_numpy_dtype)
        size = lib.TF_TensorByteSize(tensor)
        if array.nbytes != size:
            raise ValueError(f"an output of type {dtype.name} and shape {shape} has {size} bytes.")
        if size:
            ctypes.memmove(array.ctypes.data, data, size)
        return array
    finally:
        lib.TF_DeleteTensor(tensor)
