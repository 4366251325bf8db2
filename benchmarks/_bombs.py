"""Measures what files cost that ask for much: `python -m benchmarks._bombs FOLDER`, in the serving environment.

Writes a line of JSON for each: the reason of its refusal (empty where it was accepted), seconds and MiB.
"""

import json
import pathlib
import sys
import time

from serving.images import ImageError, canonicalize


def main() -> None:
    """Makes each file of the folder canonical, or sees it refused."""
    for file in sorted(pathlib.Path(sys.argv[1]).iterdir()):
        data = file.read_bytes()
        # The kernel forgets the peak: what counts is what this one adds.
        pathlib.Path("/proc/self/clear_refs").write_text("5")
        before = memory("VmRSS")
        begun, reason = time.perf_counter(), ""
        try:
            canonicalize(data)
        except ImageError as error:
            reason = error.reason
        seconds = time.perf_counter() - begun
        line = {"file": file.name, "bytes": len(data), "reason": reason, "seconds": seconds}
        print(json.dumps({**line, "mib": memory("VmHWM") - before}), flush=True)


def memory(field: str) -> float:
    """Returns a field of /proc/self/status in MiB."""
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field + ":"))


if __name__ == "__main__":
    main()
