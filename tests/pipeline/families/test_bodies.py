import numpy as np
import pytest

from pipeline.encoder_config import EncoderConfig
from pipeline.families import Collected
from pipeline.families.bodies import convolutional_decoder, convolutional_encoder


def network(collected=None, **options):
    config = EncoderConfig(**({"height": 16, "width": 16, "channels": 1, "dimension": 3, "filters": (4,)} | options))
    return convolutional_encoder(config, collected or Collected()), convolutional_decoder(config)


@pytest.mark.parametrize(
    ("height", "width", "channels"), [(16, 16, 1), (28, 28, 1), (17, 31, 3), (33, 18, 1), (256, 16, 3)]
)
@pytest.mark.parametrize("pooling", ["stride", "max"])
def test_any_size_comes_back_as_it_went_in(height, width, channels, pooling):
    shape = {"height": height, "width": width, "channels": channels}
    encoder, decoder = network(**shape, dimension=5, filters=(4, 8), pooling=pooling)
    pixels = np.random.default_rng(0).random((2, height, width, channels), np.float32)
    assert encoder(pixels).shape == (2, 5)
    reconstructed = decoder(encoder(pixels)).numpy()
    assert reconstructed.shape == pixels.shape
    assert reconstructed.min() >= 0.0 and reconstructed.max() <= 1.0


def test_the_default_is_the_network_of_the_lineage():
    encoder, _ = network(height=28, width=28, dimension=16, filters=EncoderConfig().filters)
    layers = [layer.__class__.__name__ for layer in encoder.layers[1:]]
    assert layers == ["Conv2D", "LeakyReLU", "BatchNormalization"] * 2 + ["Flatten", "Dense"]
    convolutions = [layer for layer in encoder.layers if layer.__class__.__name__ == "Conv2D"]
    assert [(c.filters, c.strides, c.kernel_size) for c in convolutions] == [(32, (2, 2), (3, 3)), (64, (2, 2), (3, 3))]
    slopes = [layer.negative_slope for layer in encoder.layers if hasattr(layer, "negative_slope")]
    assert slopes == pytest.approx([0.2, 0.2])


def test_a_map_as_the_code_has_the_size_of_the_map():
    options = {"height": 28, "width": 28, "filters": (16, 8, 8), "pooling": "max", "latent": "map"}
    encoder, decoder = network(dimension=128, **options)
    assert decoder(encoder(np.zeros((1, 28, 28, 1), np.float32))).shape == (1, 28, 28, 1)
    with pytest.raises(ValueError, match=r"encoder.dimension must be 128 where encoder.latent is map \(4 x 4 x 8\)"):
        network(dimension=64, **options)


def test_a_mean_forgets_where_things_were():
    options = {"dimension": 5, "filters": (4, 8), "batch_normalisation": False}
    encoder, decoder = network(latent="mean", **options)
    # 8 x 5 weights and 5 biases, however large the image is.
    assert encoder.get_layer("embedding").count_params() == 45
    assert decoder(encoder(np.zeros((2, 16, 16, 1), np.float32))).shape == (2, 16, 16, 1)


def test_standardising_uses_the_statistics_it_is_given():
    plain, _ = network()
    standard, _ = network(Collected(mean=[0.5], variance=[0.25]))
    standard.set_weights(plain.get_weights())
    pixels = np.random.default_rng(0).random((2, 16, 16, 1), np.float32)
    np.testing.assert_allclose(standard(pixels), plain((pixels - 0.5) / 0.5), atol=1e-5)


def test_a_constant_channel_can_be_standardised():
    encoder, _ = network(Collected(mean=[0.5], variance=[0.0]))
    assert np.isfinite(encoder(np.full((1, 16, 16, 1), 0.5, np.float32))).all()
