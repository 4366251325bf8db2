"""Runs something in a real process of its own that is killed with SIGKILL right before it changes a file again."""

import os
import pathlib
import signal
import sys
import traceback
from collections.abc import Callable, Iterator

_CHANGES = {"os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.symlink", "os.chmod"}


def killed_at_every_change(root: pathlib.Path, work: Callable[[], object]) -> Iterator[str]:
    """Runs `work` again and again, killed before its first change below `root`, its second, and so on.

    Yields, after each death, what would have come next; the caller looks at `root` and sets it back. Ends when `work`
    comes to its end alive. Python announces every change of a file to its audit hooks, so no step can be forgotten, and
    nothing in the code under test is there for the test.
    """
    step = 0
    while True:
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            os.close(reading)
            _work(root, work, step, writing)
        os.close(writing)
        with open(reading) as handle:
            said = handle.read()
        status = os.waitpid(child, 0)[1]
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0, said
            return
        assert os.WTERMSIG(status) == signal.SIGKILL
        yield said
        step += 1


def _work(root: pathlib.Path, work: Callable[[], object], step: int, writing: int) -> None:
    seen = 0

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal seen
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if not writes and event not in _CHANGES:
            return
        paths = [os.fspath(a) for a in arguments if isinstance(a, str | os.PathLike)]
        if not any(path.startswith(str(root)) for path in paths):
            return
        if seen == step:
            os.write(writing, f"{event} {' '.join(paths)}".encode())
            os.kill(os.getpid(), signal.SIGKILL)
        seen += 1

    try:
        sys.addaudithook(watch)
        work()
    except BaseException:
        os.write(writing, traceback.format_exc().encode())
        os._exit(1)
    os._exit(0)
