import http.server
import json
import threading

import pytest

from pipeline.reindex_summary import EXIT_CODES, ReindexSummary, check_writable, write_summary

PUBLISHED = ReindexSummary(
    "published", release_id="r2", base="r1", counts={"listed": 12, "new": 2}, components={"Embedder": 1.5}, finished=1e9
)


def test_success_is_zero_and_every_failure_has_a_code_of_its_own():
    assert {status for status, code in EXIT_CODES.items() if code == 0} == {"published", "unchanged"}
    others = [code for code in EXIT_CODES.values() if code]
    assert len(set(others)) == len(others)


def test_the_summary_is_written_for_a_scheduler_and_for_prometheus(tmp_path):
    write_summary(PUBLISHED, str(tmp_path / "deep/summary.json"), str(tmp_path / "deep/reindex.prom"), None)
    summary = json.loads((tmp_path / "deep/summary.json").read_text())
    told = {name: summary[name] for name in ("status", "exit_code", "release_id", "base", "counts", "finished")}
    assert told == {
        "status": "published",
        "exit_code": 0,
        "release_id": "r2",
        "base": "r1",
        "counts": {"listed": 12, "new": 2},
        "finished": 1e9,
    }
    samples = [line for line in (tmp_path / "deep/reindex.prom").read_text().splitlines() if not line.startswith("#")]
    assert samples == [
        "lookalike_reindex_finished_timestamp_seconds 1e+09",
        "lookalike_reindex_success 1.0",
        "lookalike_reindex_exit_code 0.0",
        "lookalike_reindex_published 1.0",
        "lookalike_reindex_duration_seconds 0.0",
        'lookalike_reindex_items{what="listed"} 12.0',
        'lookalike_reindex_items{what="new"} 2.0',
        'lookalike_reindex_step_seconds{step="Embedder"} 1.5',
    ]
    assert sorted(path.name for path in (tmp_path / "deep").iterdir()) == ["reindex.prom", "summary.json"]


@pytest.mark.parametrize("status", [status for status, code in EXIT_CODES.items() if code])
def test_a_failure_is_seen(status):
    assert ReindexSummary(status).registry().get_sample_value("lookalike_reindex_success") == 0


def test_metrics_are_pushed():
    pushed = []

    class Gateway(http.server.BaseHTTPRequestHandler):
        def do_PUT(self):
            pushed.append((self.path, self.rfile.read(int(self.headers["Content-Length"])).decode()))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Gateway) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        write_summary(PUBLISHED, None, None, f"127.0.0.1:{server.server_port}")
        thread.join()
    ((path, text),) = pushed
    assert path == "/metrics/job/lookalike_reindex"
    assert 'lookalike_reindex_items{what="new"} 2.0' in text


def test_what_cannot_be_written_is_known_before_the_run(tmp_path):
    check_writable(str(tmp_path / "deep" / "summary.json"))
    assert list((tmp_path / "deep").iterdir()) == []
    (tmp_path / "file").touch()
    for wrong in (tmp_path, tmp_path / "file" / "summary.json"):
        with pytest.raises(OSError):
            check_writable(str(wrong))
