"""Tensors on the wire: TensorProto to NumPy and back, in both of its encodings."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2, types_pb2

Array = npt.NDArray[Any]

# A few bytes can declare a tensor of any size (one value stands for all of them).
MAX_BYTES = 2**31

# Which typed field holds which type; complex and quantised types are in no signature that we know of.
_FIELDS = {
    tf.float32: "float_val",
    tf.float64: "double_val",
    tf.int8: "int_val",
    tf.int16: "int_val",
    tf.int32: "int_val",
    tf.uint8: "int_val",
    tf.uint16: "int_val",
    tf.int64: "int64_val",
    tf.uint32: "uint32_val",
    tf.uint64: "uint64_val",
    tf.bool: "bool_val",
    tf.string: "string_val",
    tf.float16: "half_val",
    tf.bfloat16: "half_val",
}
_HALF = {tf.float16, tf.bfloat16}


def decode(proto: tensor_pb2.TensorProto) -> Array:
    """Returns the tensor in `proto`, typed fields or `tensor_content`; strings as an object array of bytes.

    As in TensorFlow, too few values are filled up with the last one. Raises ValueError where `proto` is not a tensor.
    """
    try:
        dtype = tf.dtypes.as_dtype(proto.dtype)
    except TypeError as error:
        raise ValueError(f"unknown type {proto.dtype}.") from error
    if dtype not in _FIELDS:
        raise ValueError(f"type {types_pb2.DataType.Name(proto.dtype)} is not supported.")
    shape = tuple(dim.size for dim in proto.tensor_shape.dim)
    if proto.tensor_shape.unknown_rank or any(size < 0 for size in shape):
        raise ValueError(f"a value needs a known shape, got {shape}.")
    count = math.prod(shape)
    if count * max(dtype.size, 1) > MAX_BYTES:
        raise ValueError(f"a tensor may hold {MAX_BYTES} bytes, shape {shape} declares more.")
    if proto.tensor_content:
        return _from_content(proto.tensor_content, dtype, count).reshape(shape)
    return _from_values(getattr(proto, _FIELDS[dtype]), dtype, count).reshape(shape)


def encode(array: Array, dtype: tf.DType, *, as_content: bool = False) -> tensor_pb2.TensorProto:
    """Returns `array` as a TensorProto of `dtype`: in typed fields, or as `tensor_content` where asked."""
    proto = tensor_pb2.TensorProto(dtype=dtype.as_datatype_enum)
    for size in array.shape:
        proto.tensor_shape.dim.add(size=size)
    flat = array.reshape(-1)
    if as_content:
        proto.tensor_content = _string_content(flat) if dtype == tf.string else flat.tobytes()
    else:
        values = flat.view(np.uint16) if dtype in _HALF else flat
        getattr(proto, _FIELDS[dtype]).extend(values.tolist())
    return proto


def _from_content(content: bytes, dtype: tf.DType, count: int) -> Array:
    if dtype == tf.string:
        return _strings(content, count)
    array = np.frombuffer(content, dtype.as_numpy_dtype)
    if array.size != count:
        raise ValueError(f"tensor_content holds {array.size} values, the shape {count}.")
    return array


def _from_values(values: Any, dtype: tf.DType, count: int) -> Array:
    if len(values) > count:
        raise ValueError(f"{len(values)} values for a shape of {count}.")
    if dtype == tf.string:
        strings = np.empty(count, object)
        strings[: len(values)] = list(values)
        strings[len(values) :] = values[-1] if values else b""
        return strings
    make: Callable[..., Array] = np.array
    given = make(values, np.uint16).view(dtype.as_numpy_dtype) if dtype in _HALF else make(values, dtype.as_numpy_dtype)
    if len(given) == count:
        return given
    array = np.empty(count, dtype.as_numpy_dtype)
    array[: len(given)] = given
    array[len(given) :] = given[-1] if len(given) else 0
    return array


def _strings(content: bytes, count: int) -> Array:
    # TensorFlow's own layout: the length of every string as a varint, then their bytes.
    if count > len(content):
        raise ValueError(f"tensor_content of {len(content)} bytes can't hold {count} strings.")
    lengths = []
    position = 0
    for _ in range(count):
        length, position = _varint(content, position)
        lengths.append(length)
    if position + sum(lengths) != len(content):
        raise ValueError("tensor_content doesn't end where its last string does.")
    strings = np.empty(count, object)
    for row, length in enumerate(lengths):
        strings[row] = content[position : position + length]
        position += length
    return strings


def _string_content(strings: Array) -> bytes:
    lengths = bytearray()
    for string in strings:
        length = len(string)
        while length >= 0x80:
            lengths.append(length & 0x7F | 0x80)
            length >>= 7
        lengths.append(length)
    return bytes(lengths) + b"".join(strings)


def _varint(content: bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 35, 7):
        if position >= len(content):
            raise ValueError("tensor_content ends within the lengths of its strings.")
        byte = content[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("tensor_content holds a length beyond 32 bits.")
