"""The seam between the families and what they share: a family builds a network and says what it loses."""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from pipeline.encoder_config import EncoderConfig

Floats = npt.NDArray[np.float32]
# (pixels `[B, H, W, C]` in [0, 1], target, training) -> the terms of the loss: scalars, weighted, minimised as a sum.
# The target is the pixels again, or int64 `[B]`, the number of a label, for a supervised family.
Loss = Callable[[tf.Tensor, tf.Tensor, bool], dict[str, tf.Tensor]]


@dataclasses.dataclass(frozen=True)
class Collected:
    """What a family may know of the training images before it is built. labels: of how many kinds, 0 for none.

    mean, variance: float `[C]` of their pixels in [0, 1]; None where the input isn't to be standardised.
    """

    mean: Floats | None = None
    variance: Floats | None = None
    labels: int = 0


@dataclasses.dataclass(frozen=True)
class Network:
    """What a family builds. `B` is the batch, `D` the dimensions.

    encoder: pixels float32 `[B, H, W, C]` in [0, 1] -> embedding float32 `[B, D]`, not normalised.
    decoder: such an embedding -> pixels; None where the family doesn't reconstruct.
    loss: see Loss; None for a family that is fitted instead of trained. terms: the names of what it returns.
    fit: sets the weights that gradients don't, after training or instead of it, from training images, uint8
    `[N, H, W, C]`, and a seed; None where there are none.
    activation: pixels -> float32 `[B, D]`, positive where the bit of the code is 1; only of binary families, whose
    embedding it is.
    others: models that are needed in training only.
    """

    encoder: keras.Model
    decoder: keras.Model | None = None
    loss: Loss | None = None
    terms: tuple[str, ...] = ()
    fit: Callable[[npt.NDArray[np.uint8], int], None] | None = None
    activation: keras.Model | None = None
    others: tuple[keras.Model, ...] = ()

    @property
    def models(self) -> tuple[keras.Model, ...]:
        """Everything that holds variables."""
        every = (self.encoder, self.decoder, self.activation, *self.others)
        return tuple(model for model in every if model is not None)

    @property
    def dimension(self) -> int:
        """D."""
        return int(self.encoder.output_shape[-1])


@dataclasses.dataclass(frozen=True)
class Family:
    """A kind of encoder. build: from the options of `encoder`, with its image size set. See `pipeline.families`."""

    build: Callable[[EncoderConfig, Collected], Network]


class Trainee(keras.Model):
    """A network as Keras trains it: called with pixels and targets it returns the terms of its loss."""

    def __init__(self, network: Network) -> None:
        super().__init__(name="trainee")
        if network.loss is None:
            raise ValueError("this family is fitted, not trained: its network has no loss.")
        self.parts = list(network.models)
        # Every part was built with its shapes; BackupAndRestore wants to be told before the first batch.
        self.built = True
        self._terms = network.loss
        # The only term would be the loss again.
        self._means = {name: keras.metrics.Mean(name=name) for name in network.terms if len(network.terms) > 1}

    def call(self, inputs: tuple[tf.Tensor, tf.Tensor], training: bool = False) -> dict[str, tf.Tensor]:
        """Returns the weighted terms of the loss."""
        return self._terms(*inputs, training)

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> tf.Tensor:
        """Returns their sum, this device's part of it: gradients are summed over devices."""
        total = tf.add_n([tf.cast(term, tf.float32) for term in y_pred.values()])
        return total / tf.distribute.get_strategy().num_replicas_in_sync

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        # Nothing is left to be built but the optimizer. Keras 3.12 would draw a batch for it under a tf.distribute
        # strategy, and fails to reduce one that is more than a single tensor.
        if not self.optimizer.built:
            with self.distribute_strategy.scope():
                self.optimizer.build(self.trainable_variables)

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> dict[str, Any]:
        """Returns the mean of each term over the epoch so far, where there is more than one."""
        for name, mean in self._means.items():
            mean.update_state(y_pred[name])
        found = self.get_metrics_result()
        if isinstance(self.distribute_strategy, tf.distribute.MultiWorkerMirroredStrategy):
            # Keras 3.12 takes their mean over hosts along the first axis, and scalars have none.
            found = {name: tf.reshape(value, [1]) for name, value in found.items()}
        return found
