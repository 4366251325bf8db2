"""Fuzzes what is made of image files, by atheris: `python -m benchmarks._fuzz_images CORPUS [libFuzzer's flags]`.

A process of the serving environment. ImageError is the only error that may come, and what is accepted must be
canonical: a JPEG or PNG that passes again byte for byte.
"""

import sys

import atheris

with atheris.instrument_imports(include=["serving", "PIL"]):
    from serving.images import ImageError, ImageLimits, canonicalize

_LIMITS = ImageLimits(max_pixels=4_000_000)


def try_image(data: bytes) -> None:
    """Raises where the file is neither refused nor made canonical."""
    try:
        canonical = canonicalize(data, _LIMITS)
    except ImageError as error:
        assert error.reason and str(error), "an error must say why"
        return
    assert canonicalize(canonical.data, _LIMITS).data == canonical.data, "what is canonical must pass as it is"


if __name__ == "__main__":
    atheris.Setup(sys.argv, try_image)
    atheris.Fuzz()
