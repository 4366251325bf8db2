"""A fingerprint of our own code, so that a cache made by other code is never answered from."""

import functools
import hashlib
import pathlib
from collections.abc import Iterable

_ROOT = pathlib.Path(__file__).parent.parent
_PACKAGES = ("components", "pipeline", "serving")
_SUFFIXES = {".py", ".proto"}


@functools.cache
def code_fingerprint() -> str:
    """Returns the sha256, in hex, over the sources of what a pipeline executes: the same on every machine."""
    return fingerprint(_ROOT, _PACKAGES)


def fingerprint(root: pathlib.Path, packages: Iterable[str]) -> str:
    """Returns the sha256, in hex, over the relative path and content of every source below `root`/`packages`."""
    digest = hashlib.sha256()
    for package in sorted(packages):
        files = ((file.relative_to(root).as_posix(), file) for file in (root / package).rglob("*"))
        for name, file in sorted((name, file) for name, file in files if file.suffix in _SUFFIXES and file.is_file()):
            content = file.read_bytes()
            # The lengths keep two neighbouring fields from trading bytes.
            digest.update(f"{len(name)}:{name}:{len(content)}:".encode())
            digest.update(content)
    return digest.hexdigest()
