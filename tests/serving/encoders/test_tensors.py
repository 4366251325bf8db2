import numpy as np
import pytest

from lookalike.tfserving.v1 import tfserving_pb2
from serving.encoders import tensors


@pytest.mark.parametrize("as_content", [False, True])
@pytest.mark.parametrize(
    "array",
    [
        np.array([[1.5, -2.25, 0.1], [4, 5, 6]], np.float32),
        np.arange(2 * 3 * 3 * 1, dtype=np.uint8).reshape(2, 3, 3, 1),
        np.zeros((0, 4), np.float32),
        np.float32([7]),
    ],
)
def test_an_array_comes_back_from_either_field(array: np.ndarray, as_content: bool) -> None:
    tensor = tensors.from_array(array, as_content=as_content)
    back = tensors.to_array(tfserving_pb2.Tensor.FromString(tensor.SerializeToString()))
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)


def test_one_value_stands_for_many() -> None:
    tensor = tensors.from_array(np.zeros((2, 3), np.float32))
    del tensor.float_val[1:]
    np.testing.assert_array_equal(tensors.to_array(tensor), np.zeros((2, 3)))


def test_a_tensor_of_another_size_than_its_shape_is_refused() -> None:
    tensor = tensors.from_array(np.zeros((2, 3), np.float32))
    del tensor.float_val[2:]
    with pytest.raises(tensors.TensorError, match=r"shape \(2, 3\) needs 6 values, got 2"):
        tensors.to_array(tensor)


def test_raw_bytes_that_are_no_floats_are_refused() -> None:
    tensor = tensors.from_array(np.zeros((1, 1), np.float32), as_content=True)
    tensor.tensor_content = b"abc"
    with pytest.raises(tensors.TensorError):
        tensors.to_array(tensor)


def test_an_unknown_shape_is_refused() -> None:
    tensor = tensors.from_array(np.zeros(1, np.float32))
    tensor.tensor_shape.dim[0].size = -1
    with pytest.raises(tensors.TensorError, match="shape must be known"):
        tensors.to_array(tensor)


def test_a_tensor_of_strings_is_refused() -> None:
    with pytest.raises(tensors.TensorError, match="got 7"):
        tensors.to_array(tensors.from_strings([b"a"]))
