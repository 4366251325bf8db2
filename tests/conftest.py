"""What holds for all tests: how they are divided among processes, and that in CI none is skipped."""

import gc
import os

import pytest

# A forked child holds what earlier tests left behind, without the threads it belongs to: to free a gRPC object there
# aborts the child. None lives long enough to need its garbage collected.
os.register_at_fork(after_in_child=gc.disable)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With `-n 2 --dist loadgroup` a module's tests share a process, and so do all that look at `published`.

    What they share is then made once.
    """
    for item in items:
        group = "published" if "published" in getattr(item, "fixturenames", ()) else item.nodeid.partition("::")[0]
        item.add_marker(pytest.mark.xdist_group(group))


def pytest_sessionfinish(session: pytest.Session) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    # Where several processes run the tests, only the first one reports.
    skipped = reporter.stats.get("skipped", []) if reporter else []
    if os.environ.get("CI") and skipped:
        reporter.write_line(f"{len(skipped)} tests were skipped: in CI that is a failure.", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
