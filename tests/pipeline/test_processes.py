import pathlib
import sys

from pipeline.processes import Process, is_running, stop_pid

_LISTENS = "import pathlib, sys, time; pathlib.Path(sys.argv[2]).write_text('1'); time.sleep(600)"


def test_only_what_was_started_from_this_folder_is_stopped(tmp_path: pathlib.Path) -> None:
    process = Process("it", [sys.executable, "-c", _LISTENS], tmp_path / "ours")
    try:
        process.wait_for_port(60)
        assert is_running(process.pid, tmp_path / "ours")
        # The id is in the notes of another serving root, from before it came to be this one's.
        assert not is_running(process.pid, tmp_path / "others")
        stop_pid(process.pid, tmp_path / "others")
        assert is_running(process.pid, tmp_path / "ours")
        stop_pid(process.pid, tmp_path / "ours")
        assert not is_running(process.pid, tmp_path / "ours")
    finally:
        process.stop()
