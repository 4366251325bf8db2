"""Which encoder is trained: the family, its network, and what only some families read.

Imports nothing heavy: a wrong option is told before TensorFlow is loaded.
"""

import dataclasses

from pipeline.option_checks import require, require_one_of, require_within
from serving.release.encoder_info import BINARY_FAMILIES

# What each is: docs/encoders.md. `pipeline.families` holds one builder for each of these names.
RECONSTRUCTING = (
    "undercomplete",
    "deep",
    "convolutional",
    "denoising",
    "sparse",
    "contractive",
    "variational",
    "binary",
    "ours",
    "pca",
)
NOT_RECONSTRUCTING = ("pixels", "itq", "descriptors", "cnn")
FAMILIES = RECONSTRUCTING + NOT_RECONSTRUCTING
# The signs of their embedding are a code of bits.
BINARY = BINARY_FAMILIES
# The only family that reads labels in training.
SUPERVISED = ("cnn",)

FITS = ("stretch", "pad")
LOSSES = ("mse", "bce")
BODIES = ("dense", "convolutional")
POOLINGS = ("stride", "max")
LATENTS = ("dense", "mean", "map")
ACTIVATIONS = ("leaky_relu", "relu")
PENALTIES = ("kl", "l1")
COMPONENTS_OF = ("pixels", "descriptors")
AGREEMENTS = ("nt_xent", "barlow_twins", "vicreg")
DESCRIPTORS = ("colour", "hog", "lbp", "edges", "lines")


@dataclasses.dataclass(frozen=True)
class DenoisingOptions:
    """noise: standard deviation of the Gaussian noise on the input in training, pixels in [0, 1]."""

    noise: float = 0.3

    def __post_init__(self) -> None:
        require_within("encoder.denoising.noise", self.noise, 0.0, 2.0)


@dataclasses.dataclass(frozen=True)
class SparseOptions:
    """penalty: `kl` to a mean activation of `target`, or `l1`. weight: of the penalty beside the reconstruction."""

    penalty: str = "kl"
    target: float = 0.05
    weight: float = 1e-3

    def __post_init__(self) -> None:
        require_one_of("encoder.sparse.penalty", self.penalty, PENALTIES)
        require(0.0 < self.target < 1.0, f"encoder.sparse.target must be in (0, 1), got {self.target}.")
        require_within("encoder.sparse.weight", self.weight, 0.0, 1e3)


@dataclasses.dataclass(frozen=True)
class ContractiveOptions:
    """weight: of the squared Frobenius norm of the encoder's Jacobian."""

    weight: float = 1e-4

    def __post_init__(self) -> None:
        require_within("encoder.contractive.weight", self.weight, 0.0, 1e3)


@dataclasses.dataclass(frozen=True)
class VariationalOptions:
    """weight: of the divergence from the prior; 1 is the bound of Kingma and Welling, others make a beta-VAE."""

    weight: float = 1.0

    def __post_init__(self) -> None:
        require_within("encoder.variational.weight", self.weight, 0.0, 1e3)


@dataclasses.dataclass(frozen=True)
class BinaryOptions:
    """dropout: share of the input that training sets to zero. noise: standard deviation, before the code's sigmoid."""

    dropout: float = 0.2
    noise: float = 1.0

    def __post_init__(self) -> None:
        require_within("encoder.binary.dropout", self.dropout, 0.0, 0.9)
        require_within("encoder.binary.noise", self.noise, 0.0, 100.0)


@dataclasses.dataclass(frozen=True)
class AugmentOptions:
    """Changes that leave an image the same thing to look for. Each is drawn evenly up to its limit, either way.

    shift, zoom: shares of the side. crop: the largest share of the side that a window leaves out. rotation, shear:
    degrees. elastic: how far points move, as a share of the side. flip: whether left and right may change places.
    brightness, contrast, saturation: shares. grey: the chance that colours go. noise: standard deviation of a pixel in
    [0, 1]. erase: the largest share of the side that is blanked.
    """

    shift: float = 0.1
    zoom: float = 0.15
    crop: float = 0.0
    rotation: float = 15.0
    shear: float = 10.0
    elastic: float = 0.04
    flip: bool = False
    brightness: float = 0.1
    contrast: float = 0.2
    saturation: float = 0.2
    grey: float = 0.0
    noise: float = 0.03
    erase: float = 0.0

    def __post_init__(self) -> None:
        limits = {
            "shift": 0.5,
            "zoom": 0.7,
            "crop": 0.9,
            "rotation": 180.0,
            "shear": 60.0,
            "elastic": 0.3,
            "brightness": 1.0,
        }
        limits |= {"contrast": 1.0, "saturation": 1.0, "grey": 1.0, "noise": 1.0, "erase": 0.7}
        for name, high in limits.items():
            require_within(f"encoder.augment.{name}", getattr(self, name), 0.0, high)


@dataclasses.dataclass(frozen=True)
class OursOptions:
    """agreement: how two views of an image are held together; weight: of that term. reconstruction: of the error.

    drawn: the share of each batch that the decoder learns from.
    temperature: of `nt_xent`. projection: width of the layers between the embedding and that term, 0 for none.
    neighbors: embeddings remembered, in which a view's nearest stands in for it (NNCLR); 0 takes the view itself.
    neighbors_after: steps after which they do.

    whiten: how far the axes of what was learned are evened out afterwards, in [0, 1]. components: how many of the
    dimensions are principal components instead, of the pixels or of `encoder.descriptors` (components_of).
    components_weight: of their share in the cosine, beside 1 of what was learned.
    """

    agreement: str = "nt_xent"
    weight: float = 1.0
    reconstruction: float = 10.0
    drawn: float = 1.0
    temperature: float = 0.3
    projection: int = 0
    neighbors: int = 0
    neighbors_after: int = 1000
    whiten: float = 0.0
    components: int = 0
    components_of: str = "pixels"
    components_weight: float = 1.0

    @property
    def settles(self) -> bool:
        """Whether something is done to the embedding once it is trained."""
        return bool(self.whiten or self.components)

    def __post_init__(self) -> None:
        require_one_of("encoder.ours.agreement", self.agreement, AGREEMENTS)
        require_within("encoder.ours.weight", self.weight, 0.0, 1e4)
        require_within("encoder.ours.reconstruction", self.reconstruction, 0.0, 1e4)
        require(0.0 < self.drawn <= 1.0, f"encoder.ours.drawn must be in (0, 1], got {self.drawn}.")
        require_within("encoder.ours.temperature", self.temperature, 0.01, 10.0)
        require_within("encoder.ours.projection", self.projection, 0, 8192)
        require_within("encoder.ours.whiten", self.whiten, 0.0, 1.0)
        require_within("encoder.ours.components", self.components, 0, 4095)
        require_one_of("encoder.ours.components_of", self.components_of, COMPONENTS_OF)
        require_within("encoder.ours.components_weight", self.components_weight, 0.0, 100.0)
        require_within("encoder.ours.neighbors", self.neighbors, 0, 10**6)
        require_within("encoder.ours.neighbors_after", self.neighbors_after, 0, 10**9)


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    """The network. height, width: pixels, 0 to take them from the images. channels: 1, 3, or 0 likewise.

    body: of the families that have a choice, "" for their own. filters, pooling, latent, activation,
    batch_normalisation: of a convolutional body. units: hidden layers of a dense one. See docs/encoders.md.
    """

    family: str = "convolutional"
    dimension: int = 64
    height: int = 0
    width: int = 0
    channels: int = 0
    fit: str = "stretch"
    standardise: bool = True
    loss: str = "mse"
    body: str = ""
    filters: tuple[int, ...] = (32, 64)
    pooling: str = "stride"
    latent: str = "dense"
    activation: str = "leaky_relu"
    batch_normalisation: bool = True
    units: tuple[int, ...] = (512, 256)
    descriptors: tuple[str, ...] = DESCRIPTORS
    denoising: DenoisingOptions = dataclasses.field(default_factory=DenoisingOptions)
    sparse: SparseOptions = dataclasses.field(default_factory=SparseOptions)
    contractive: ContractiveOptions = dataclasses.field(default_factory=ContractiveOptions)
    variational: VariationalOptions = dataclasses.field(default_factory=VariationalOptions)
    binary: BinaryOptions = dataclasses.field(default_factory=BinaryOptions)
    ours: OursOptions = dataclasses.field(default_factory=OursOptions)
    augment: AugmentOptions = dataclasses.field(default_factory=AugmentOptions)

    def __post_init__(self) -> None:
        require_one_of("encoder.family", self.family, FAMILIES)
        require(1 <= self.dimension <= 4096, f"encoder.dimension must be in [1, 4096], got {self.dimension}.")
        for name in ("height", "width"):
            side = getattr(self, name)
            require(side == 0 or 16 <= side <= 256, f"encoder.{name} must be 0 or in [16, 256], got {side}.")
        require(self.channels in (0, 1, 3), f"encoder.channels must be 0, 1 or 3, got {self.channels}.")
        require_one_of("encoder.fit", self.fit, FITS)
        require_one_of("encoder.loss", self.loss, LOSSES)
        require_one_of("encoder.body", self.body, ("", *BODIES))
        require_one_of("encoder.pooling", self.pooling, POOLINGS)
        require_one_of("encoder.latent", self.latent, LATENTS)
        require_one_of("encoder.activation", self.activation, ACTIVATIONS)
        good = 1 <= len(self.filters) <= 6 and all(1 <= f <= 1024 for f in self.filters)
        require(good, f"encoder.filters must be 1 to 6 numbers in [1, 1024], got {self.filters}.")
        good = 1 <= len(self.units) <= 8 and all(1 <= u <= 8192 for u in self.units)
        require(good, f"encoder.units must be 1 to 8 numbers in [1, 8192], got {self.units}.")
        good = bool(self.descriptors) and set(self.descriptors) <= set(DESCRIPTORS)
        require(good, f"encoder.descriptors must be some of {DESCRIPTORS}, got {self.descriptors}.")
        if self.family == "ours":
            fewer = self.ours.components < self.dimension
            require(fewer, f"encoder.ours.components must be below encoder.dimension, got {self.ours.components}.")
        if self.family in BINARY:
            fits = self.dimension % 8 == 0 and 8 <= self.dimension <= 512
            require(fits, f"encoder.dimension of {self.family} must be 8 to 512, whole bytes, got {self.dimension}.")
