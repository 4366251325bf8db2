"""Our decoding beside TensorFlow's own (`tf.io.parse_tensor` is Tensor::FromProto, which TF Serving calls)."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorflow.core.framework import tensor_pb2

from serving.model_server import tensors

ARRAYS = {
    tf.float32: np.array([[1.5, -0.0], [np.inf, 3e-45]], np.float32),
    tf.float64: np.array([1e300, np.pi]),
    tf.float16: np.array([1.5, 65504], np.float16),
    tf.bfloat16: np.array([1.5, -2], tf.bfloat16.as_numpy_dtype),
    tf.int8: np.array([-128, 127], np.int8),
    tf.int16: np.array([-(2**15), 7], np.int16),
    tf.int32: np.array([[[-(2**31)], [2**31 - 1]]], np.int32),
    tf.int64: np.array([-(2**63), 2**63 - 1]),
    tf.uint8: np.arange(6, dtype=np.uint8).reshape(1, 2, 3),
    tf.uint16: np.array([0, 65535], np.uint16),
    tf.uint32: np.array([0, 2**32 - 1], np.uint32),
    tf.uint64: np.array([0, 2**64 - 1], np.uint64),
    tf.bool: np.array([True, False]),
    tf.string: np.array([b"", b"\x00\xff", b"x" * 300], object),
}


def by_tensorflow(proto, dtype):
    return tf.io.parse_tensor(proto.SerializeToString(), dtype).numpy()


@pytest.mark.parametrize("as_content", [False, True])
@pytest.mark.parametrize("dtype", ARRAYS, ids=lambda dtype: dtype.name)
def test_round_trip_and_tensorflow_reads_the_same(dtype, as_content):
    array = ARRAYS[dtype]
    proto = tensors.encode(array, dtype, as_content=as_content)
    assert bool(proto.tensor_content) == as_content
    for read in (tensors.decode(proto), by_tensorflow(proto, dtype)):
        assert read.shape == array.shape
        np.testing.assert_array_equal(read, array)


@pytest.mark.parametrize("dtype", [tf.float32, tf.string, tf.int64])
@pytest.mark.parametrize("given_values", [0, 1, 2, 3])
def test_few_values_are_filled_up_as_in_tensorflow(dtype, given_values):
    proto = tensors.encode(ARRAYS[dtype].reshape(-1)[:2][:given_values], dtype)
    proto.tensor_shape.dim[0].size = 3
    np.testing.assert_array_equal(tensors.decode(proto), by_tensorflow(proto, dtype))


def test_scalars_and_empty_tensors():
    assert tensors.decode(tf.make_tensor_proto(2.5, tf.float32)) == np.float32(2.5)
    assert tensors.decode(tf.make_tensor_proto(b"x", tf.string)) == b"x"
    assert tensors.decode(tensors.encode(np.empty((0, 4), np.float32), tf.float32)).shape == (0, 4)


def broken(**fields):
    proto = tensor_pb2.TensorProto(dtype=1)
    proto.tensor_shape.dim.add(size=fields.pop("size", 2))
    for name, value in fields.items():
        if name == "dtype":
            proto.dtype = value
        elif name == "tensor_content":
            proto.tensor_content = value
        else:
            getattr(proto, name).extend(value)
    return proto


@pytest.mark.parametrize(
    ("proto", "match"),
    [
        (broken(dtype=0), "type"),
        (broken(dtype=8), "not supported"),
        (broken(size=-1), "known shape"),
        (broken(size=2**40, float_val=[1]), "bytes"),
        (broken(float_val=[1, 2, 3]), "3 values for a shape of 2"),
        (broken(tensor_content=b"1234"), "holds 1 values"),
        (broken(tensor_content=b"12345"), "multiple"),
        (broken(dtype=7, tensor_content=b"\x01"), "can't hold"),
        (broken(dtype=7, tensor_content=b"\x01\x05ab"), "last string"),
        (broken(dtype=7, tensor_content=b"\xff\xff\xff"), "ends within"),
        (broken(dtype=7, tensor_content=b"\xff" * 9), "32 bits"),
    ],
)
def test_what_is_no_tensor(proto, match):
    with pytest.raises(ValueError, match=match):
        tensors.decode(proto)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.binary(max_size=200), min_size=1, max_size=5))
def test_strings_as_content(strings):
    array = np.empty(len(strings), object)
    array[:] = strings
    proto = tensors.encode(array, tf.string, as_content=True)
    assert tensors.decode(proto).tolist() == by_tensorflow(proto, tf.string).tolist() == strings


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=40), st.integers(0, 20))
def test_no_bytes_break_the_decoder(content, size):
    try:
        strings = tensors.decode(broken(dtype=7, size=size, tensor_content=content))
    except ValueError:
        return
    assert strings.shape == (size,)
