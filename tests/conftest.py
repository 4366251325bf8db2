"""What holds for all tests: in CI nothing may be skipped, since a test that skips there would never run anywhere."""

import gc
import os

import pytest

# A forked child holds what earlier tests left behind, without the threads it belongs to: to free a gRPC object there
# aborts the child. None lives long enough to need its garbage collected.
os.register_at_fork(after_in_child=gc.disable)


def pytest_sessionfinish(session: pytest.Session) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter.stats.get("skipped", []) if reporter else []
    if os.environ.get("CI") and skipped:
        reporter.write_line(f"{len(skipped)} tests were skipped: in CI that is a failure.", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
