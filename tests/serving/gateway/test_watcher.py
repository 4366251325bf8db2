"""What the end of a process means to a release that is being opened."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(("opening", "code"), [(True, 0), (False, 3)])
def test_a_process_that_still_opens_a_release_leaves_without_its_threads(opening: bool, code: int) -> None:
    script = f"""
import asyncio, sys, threading
from serving.gateway import watcher

async def serve():
    if {opening}:
        task = asyncio.create_task(watcher._in_thread(threading.Event().wait))
        await asyncio.sleep(0)

asyncio.run(serve())
watcher.leave_at_once_if_opening()
sys.exit(3)
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == code
