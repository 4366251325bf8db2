"""Makes images canonical in a process of its own, with an end to its memory: started with the limits, fed by its stdin.

  python -m serving.images.process '{"memory_bytes": ..., "max_bytes": ..., ...}'

In: the length of an image file (8 bytes, big-endian) and its bytes, again and again. Out: for each a letter, a length
and so many bytes: K and the canonical image, or E and an ImageError's reason and text with a line break between.
"""

import json
import os
import pathlib
import resource
import struct
import sys
from typing import BinaryIO

from serving.images import ImageError, ImageLimits, canonicalize

GOOD, BAD = b"K", b"E"
LENGTH = struct.Struct(">Q")


def main() -> None:
    """Serves until stdin ends."""
    options = json.loads(sys.argv[1])
    memory = options.pop("memory_bytes")
    limits = ImageLimits(**{**options, "formats": tuple(options["formats"])})
    silence_libraries()
    limit_resources(memory)
    serve(sys.stdin.buffer, sys.stdout.buffer, limits)


def silence_libraries() -> None:
    """Throws away what libraries in C write to stderr, such as what libtiff thinks of a file; Python's own stays."""
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    os.close(nothing)


def limit_resources(memory: int) -> None:
    """Lets this process take `memory` bytes more than it has, open nothing more to write to, and leave no core file."""
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
    most = pages * os.sysconf("SC_PAGESIZE") + memory
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def serve(requests: BinaryIO, answers: BinaryIO, limits: ImageLimits) -> None:
    """Answers until `requests` ends."""
    while head := requests.read(LENGTH.size):
        data = requests.read(LENGTH.unpack(head)[0])
        try:
            kind, answer = GOOD, canonicalize(data, limits).data
        except ImageError as error:
            kind, answer = BAD, f"{error.reason}\n{error}".encode()
            if isinstance(error.__cause__, MemoryError):
                answer = b"too-many-pixels\nthe image takes more memory to decode than it may."
        answers.write(kind + LENGTH.pack(len(answer)) + answer)
        answers.flush()
        # The next one must not begin with what this one needed.
        del data, answer


if __name__ == "__main__":
    main()
