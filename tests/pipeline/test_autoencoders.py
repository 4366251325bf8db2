import numpy as np
import pytest

from pipeline import autoencoders


@pytest.mark.parametrize(
    ("height", "width", "channels"), [(16, 16, 1), (28, 28, 1), (17, 31, 3), (33, 18, 1), (256, 16, 3)]
)
def test_any_size_comes_back_as_it_went_in(height, width, channels):
    network = autoencoders.convolutional(height=height, width=width, channels=channels, dimension=5, filters=(4, 8))
    pixels = np.random.default_rng(0).random((2, height, width, channels), np.float32)
    assert network.encoder(pixels).shape == (2, 5)
    reconstructed = network.whole(pixels).numpy()
    assert reconstructed.shape == pixels.shape
    assert reconstructed.min() >= 0.0 and reconstructed.max() <= 1.0


def test_the_default_is_the_network_of_the_lineage():
    network = autoencoders.convolutional(height=28, width=28, channels=1, dimension=16)
    layers = [layer.__class__.__name__ for layer in network.encoder.layers[1:]]
    assert layers == ["Conv2D", "LeakyReLU", "BatchNormalization"] * 2 + ["Flatten", "Dense"]
    convolutions = [layer for layer in network.encoder.layers if layer.__class__.__name__ == "Conv2D"]
    assert [(c.filters, c.strides, c.kernel_size) for c in convolutions] == [(32, (2, 2), (3, 3)), (64, (2, 2), (3, 3))]
    slopes = [layer.negative_slope for layer in network.encoder.layers if hasattr(layer, "negative_slope")]
    assert slopes == pytest.approx([0.2, 0.2])


def test_standardising_uses_the_statistics_it_is_given():
    plain = autoencoders.convolutional(height=16, width=16, channels=1, dimension=3, filters=(4,))
    standard = autoencoders.convolutional(
        height=16, width=16, channels=1, dimension=3, filters=(4,), mean=[0.5], variance=[0.25]
    )
    standard.encoder.set_weights(plain.encoder.get_weights())
    pixels = np.random.default_rng(0).random((2, 16, 16, 1), np.float32)
    np.testing.assert_allclose(standard.encoder(pixels), plain.encoder((pixels - 0.5) / 0.5), atol=1e-5)


def test_a_constant_channel_can_be_standardised():
    network = autoencoders.convolutional(
        height=16, width=16, channels=1, dimension=3, filters=(4,), mean=[0.5], variance=[0.0]
    )
    assert np.isfinite(network.encoder(np.full((1, 16, 16, 1), 0.5, np.float32))).all()
