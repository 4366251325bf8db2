"""TF Serving's tensors as NumPy arrays, and strings as tensors, without TensorFlow."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lookalike.tfserving.v1 import tfserving_pb2

FLOAT, UINT8, STRING = 1, 4, 7


class TensorError(ValueError):
    """A tensor that says one thing and holds another, or of a type that our signatures don't use."""


def from_strings(values: Sequence[bytes]) -> Any:
    """Returns a string tensor `[N]`."""
    shape = tfserving_pb2.TensorShape(dim=[tfserving_pb2.TensorShape.Dim(size=len(values))])
    return tfserving_pb2.Tensor(dtype=STRING, tensor_shape=shape, string_val=values)


def from_array(array: npt.NDArray[Any], *, as_content: bool = False) -> Any:
    """Returns a float32 or uint8 array as a tensor, in typed fields or as raw bytes: a server may send either."""
    shape = tfserving_pb2.TensorShape(dim=[tfserving_pb2.TensorShape.Dim(size=size) for size in array.shape])
    dtype = {np.dtype(np.float32): FLOAT, np.dtype(np.uint8): UINT8}[array.dtype]
    tensor = tfserving_pb2.Tensor(dtype=dtype, tensor_shape=shape)
    if as_content:
        tensor.tensor_content = array.astype(array.dtype.newbyteorder("<")).tobytes()
    elif dtype == FLOAT:
        tensor.float_val.extend(array.ravel().tolist())
    else:
        tensor.int_val.extend(array.ravel().tolist())
    return tensor


def to_array(tensor: Any) -> npt.NDArray[Any]:
    """Returns a float32 or uint8 tensor as an array of its shape, from whichever field its values are in.

    One value for many, as TensorFlow abbreviates a constant, is repeated. Raises TensorError.
    """
    shape = tuple(dim.size for dim in tensor.tensor_shape.dim)
    if any(size < 0 for size in shape):
        raise TensorError(f"shape must be known, got {shape}.")
    count = int(np.prod(shape, dtype=np.int64))
    if tensor.dtype == FLOAT:
        values: npt.NDArray[Any] = _values(tensor.tensor_content, tensor.float_val, "<f4")
    elif tensor.dtype == UINT8:
        values = _values(tensor.tensor_content, tensor.int_val, "u1")
    else:
        raise TensorError(f"dtype must be {FLOAT} (float32) or {UINT8} (uint8), got {tensor.dtype}.")
    if len(values) == 1 and count > 1 and not tensor.tensor_content:
        values = np.repeat(values, count)
    if len(values) != count:
        raise TensorError(f"shape {shape} needs {count} values, got {len(values)}.")
    return values.reshape(shape)


def _values(content: bytes, typed: Sequence[float], dtype: str) -> npt.NDArray[Any]:
    try:
        values = np.frombuffer(content, dtype) if content else np.asarray(typed, dtype)
    except (ValueError, OverflowError) as error:
        raise TensorError(str(error)) from error
    return values.astype(np.dtype(dtype).newbyteorder("="))
