"""Writes scikit_image.json: what scikit-image says of the images of `pictures`. Run where it is installed.

python -m tests.pipeline.families.scikit_image    (scikit-image 0.25.2 and NumPy; it isn't in our locks: its NumPy can't
be both environments')
"""

import json
import pathlib

import numpy as np

EXPECTED = pathlib.Path(__file__).with_name("scikit_image.json")


def pictures() -> dict[str, np.ndarray]:
    """uint8 `[H, W]` or `[H, W, 3]`: noise, smooth shapes, and colours."""
    random = np.random.default_rng(5)
    y, x = np.mgrid[:40, :48]
    disc = np.where((y - 18) ** 2 + (x - 25) ** 2 < 150, 200.0, 40.0) + 20 * np.sin(x / 3.0) + 10 * np.cos(y / 2.0)
    return {
        "noise": random.integers(0, 256, (28, 28), dtype=np.uint8),
        "disc": np.clip(disc, 0, 255).astype(np.uint8),
        "colours": random.integers(0, 256, (32, 32, 3), dtype=np.uint8),
    }


def main() -> None:
    from skimage.color import rgb2gray
    from skimage.feature import hog, local_binary_pattern

    expected = {}
    for name, pixels in pictures().items():
        image = pixels / 255.0
        coloured = pixels.ndim == 3
        levels = np.rint(rgb2gray(image) * 255) if coloured else pixels.astype(float)
        pattern = local_binary_pattern(levels.astype(np.uint8), 16, 2, method="uniform")
        expected[name] = {
            "hog": np.round(hog(image, channel_axis=-1 if coloured else None), 6).tolist(),
            "lbp": pattern.astype(int).tolist(),
        }
    EXPECTED.write_text(json.dumps(expected) + "\n")


if __name__ == "__main__":
    main()
