"""Keeps a lease alive while a long run goes on in the same process."""

import contextlib
import logging
import threading
from collections.abc import Iterator

from serving.release.lease import Lease, LeaseLost

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def kept_alive(lease: Lease, seconds: float) -> Iterator[None]:
    """Renews `lease`, which counts for `seconds` after its last renewal, from a thread of its own.

    A lease that was lost is not taken again: whoever publishes under its number is refused.
    """
    done = threading.Event()

    def renew() -> None:
        # Renewing extends it only where half of it is over.
        while not done.wait(seconds / 6):
            try:
                lease.renew()
            except LeaseLost as error:
                logger.error("%s: nothing will be published by this run", error)
                return
            except OSError as error:
                logger.warning("the lease could not be renewed, trying again: %s", error)

    thread = threading.Thread(target=renew, name="lease-keeper", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
