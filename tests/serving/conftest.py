"""What the serving tests share."""

from collections.abc import Iterator

import pytest

from tests.serving.loop_thread import LoopThread


@pytest.fixture(scope="session")
def loop() -> Iterator[LoopThread]:
    """The one event loop of this test process."""
    loop = LoopThread()
    yield loop
    loop.close()
