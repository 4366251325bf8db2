"""What a model takes and gives: its signatures, and whether a request fits one."""

import dataclasses
from collections.abc import Mapping, Sequence

import tensorflow as tf
from tensorflow.core.framework import tensor_pb2
from tensorflow.core.protobuf import meta_graph_pb2

from serving.model_server import tensors
from serving.model_server.errors import invalid_argument
from serving.model_server.tensors import Array


@dataclasses.dataclass(frozen=True)
class TensorSpec:
    """A tensor of a signature. tensor: its name in the graph. shape: None for any rank, -1 for any size."""

    tensor: str
    dtype: tf.DType
    shape: tuple[int, ...] | None

    def accepts(self, shape: Sequence[int]) -> bool:
        """Returns whether an array of `shape` fits."""
        if self.shape is None:
            return True
        return len(shape) == len(self.shape) and all(
            want in (-1, got) for want, got in zip(self.shape, shape, strict=True)
        )

    @property
    def batched(self) -> bool:
        """Whether dimension 0 counts examples: any number of them."""
        return self.shape is not None and self.shape[:1] == (-1,)


@dataclasses.dataclass(frozen=True)
class Signature:
    """One entry point. inputs, outputs: by alias, sorted."""

    name: str
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]

    @property
    def batchable(self) -> bool:
        """Whether requests may be put together along dimension 0."""
        specs = [*self.inputs.values(), *self.outputs.values()]
        return bool(self.inputs) and all(spec.batched for spec in specs)

    def select(self, output_filter: Sequence[str]) -> tuple[str, ...]:
        """Returns the outputs to fetch, all of them for an empty filter; raises INVALID_ARGUMENT like TF Serving."""
        for alias in output_filter:
            if alias not in self.outputs:
                raise invalid_argument(
                    f"output tensor alias not found in signature: {alias} "
                    f"Outputs expected to be in the set {{{','.join(self.outputs)}}}."
                )
            if list(output_filter).count(alias) > 1:
                raise invalid_argument(f"duplicate output tensor alias: {alias}")
        return tuple(output_filter) or tuple(self.outputs)

    def decode(self, inputs: Mapping[str, tensor_pb2.TensorProto]) -> dict[str, Array]:
        """Returns a request's inputs, in the order of `inputs`; raises INVALID_ARGUMENT where they don't fit."""
        self._check_names(set(inputs))
        arrays = {}
        for position, (alias, spec) in enumerate(self.inputs.items()):
            try:
                array = tensors.decode(inputs[alias])
            except (ValueError, OverflowError) as error:
                raise invalid_argument(f"tensor parsing error: {alias}: {error}") from error
            dtype = tf.dtypes.as_dtype(inputs[alias].dtype)
            if dtype != spec.dtype:
                raise invalid_argument(
                    f"Expects arg[{position}] to be {spec.dtype.name} but {dtype.name} is provided (input {alias})."
                )
            if not spec.accepts(array.shape):
                want, got = list(spec.shape or ()), list(array.shape)
                raise invalid_argument(f"Input {alias} must have shape {want}, got {got}.")
            arrays[alias] = array
        return arrays

    def _check_names(self, sent: set[str]) -> None:
        wanted = set(self.inputs)
        if len(sent) != len(wanted):
            raise invalid_argument(
                f"input size does not match signature: {len(sent)}!={len(wanted)} "
                f"len({_braced(sent)}) != len({_braced(wanted)}). "
                f"Sent extra: {_braced(sent - wanted)}. Missing but required: {_braced(wanted - sent)}."
            )
        for alias in sorted(wanted - sent):
            raise invalid_argument(
                f"Signature input alias: {alias}(feed name: {self.inputs[alias].tensor}) not found in request and no "
                f"default value provided. Inputs expected to be in the request {_braced(sent)}, or default input "
                "alias set: "
            )


def runs(definition: meta_graph_pb2.SignatureDef) -> bool:
    """Returns whether `definition` is an entry point made of tensors."""
    # A SavedModel also lists its initialiser as a signature: an operation without a tensor.
    infos = [*definition.inputs.values(), *definition.outputs.values()]
    return all(info.WhichOneof("encoding") == "name" and info.dtype for info in infos)


def read_signature(name: str, definition: meta_graph_pb2.SignatureDef) -> Signature:
    """Returns the signature that `definition` describes."""
    return Signature(name, _specs(definition.inputs), _specs(definition.outputs))


def _specs(infos: Mapping[str, meta_graph_pb2.TensorInfo]) -> dict[str, TensorSpec]:
    specs = {}
    for alias, info in sorted(infos.items()):
        shape = None if info.tensor_shape.unknown_rank else tuple(dim.size for dim in info.tensor_shape.dim)
        specs[alias] = TensorSpec(info.name, tf.dtypes.as_dtype(info.dtype), shape)
    return specs


def _braced(names: set[str]) -> str:
    return "{" + ",".join(sorted(names)) + "}"
