"""The families of encoders. A family is a model builder and a loss; everything else is shared."""

from pipeline.families import binary, descriptors, fitted, ours, reconstruction, regularised, supervised
from pipeline.families.family import Collected, Family, Network, Trainee

__all__ = ["BY_NAME", "Collected", "Family", "Network", "Trainee"]

# The names are those of pipeline.encoder_config, which must not import Keras.
BY_NAME = {
    "undercomplete": Family(reconstruction.undercomplete),
    "deep": Family(reconstruction.deep),
    "convolutional": Family(reconstruction.convolutional),
    "denoising": Family(reconstruction.denoising),
    "sparse": Family(regularised.sparse),
    "contractive": Family(regularised.contractive),
    "variational": Family(regularised.variational),
    "binary": Family(binary.binary),
    "ours": Family(ours.ours),
    "pixels": Family(fitted.pixels),
    "pca": Family(fitted.pca),
    "itq": Family(fitted.itq),
    "descriptors": Family(descriptors.descriptors),
    "cnn": Family(supervised.cnn),
}
