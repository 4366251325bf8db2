"""A server on loopback that answers as Kubeflow Pipelines' API (v2beta1) does, and keeps what it was told."""

import email
import email.policy
import http.server
import json
import re
import threading
import urllib.parse
from typing import Any

import yaml

_PAGE = 2  # a server may send fewer than it was asked for


class KubeflowApi:
    """Pipelines, versions, experiments, runs and recurring runs, in memory.

    requests: (method, path) of each. tokens: what they were authorized with. refuse: (status, message) to answer with.
    """

    def __init__(self) -> None:
        self.pipelines: list[dict[str, Any]] = []
        self.versions: list[dict[str, Any]] = []
        self.experiments: list[dict[str, Any]] = []
        self.runs: list[dict[str, Any]] = []
        self.recurring: list[dict[str, Any]] = []
        self.requests: list[tuple[str, str]] = []
        self.tokens: set[str | None] = set()
        self.refuse: tuple[int, str] | None = None
        self._ids = 0
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.host = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    def __enter__(self) -> "KubeflowApi":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, method: str, path: str, query: dict[str, str], body: Any) -> Any:
        """Returns what the API answers, or None where there is no such call."""
        match [method, *path.removeprefix("/apis/v2beta1/").split("/")]:
            case ["GET", "healthz"]:
                return {"multi_user": False}
            case ["GET", "pipelines"]:
                return self._page("pipelines", self.pipelines, query)
            case ["POST", "pipelines", "upload"]:
                made = self._add(self.pipelines, "pipeline_id", {"display_name": query["name"]})
                # As the real one does: a pipeline comes with its first version, of the pipeline's name.
                self._add_version(made["pipeline_id"], query["name"], body)
                return made
            case ["POST", "pipelines", "upload_version"]:
                return self._add_version(query["pipelineid"], query["name"], body)
            case ["GET", "pipelines", pipeline_id, "versions"]:
                return self._page(
                    "pipeline_versions", [v for v in self.versions if v["pipeline_id"] == pipeline_id], query
                )
            case ["GET", "experiments"]:
                return self._page("experiments", self.experiments, query)
            case ["POST", "experiments"]:
                return self._add(self.experiments, "experiment_id", body)
            case ["POST", "runs"]:
                return self._add(self.runs, "run_id", body)
            case ["GET", "recurringruns"]:
                mine = [job for job in self.recurring if job["experiment_id"] == query["experiment_id"]]
                return self._page("recurringRuns", mine, query)
            case ["POST", "recurringruns"]:
                return self._add(self.recurring, "recurring_run_id", body)
            case ["DELETE", "recurringruns", job_id]:
                self.recurring[:] = [job for job in self.recurring if job["recurring_run_id"] != job_id]
                return {}
        return None

    def _add(self, kept: list[dict[str, Any]], key: str, value: dict[str, Any]) -> dict[str, Any]:
        self._ids += 1
        kept.append({**value, key: f"{key}-{self._ids}", "created_at": "2026-01-02T03:04:05Z"})
        return kept[-1]

    def _add_version(self, pipeline_id: str, name: str, body: bytes) -> dict[str, Any]:
        spec, *platform = yaml.safe_load_all(body)
        value = {"pipeline_id": pipeline_id, "display_name": name, "pipeline_spec": {"pipeline_spec": spec}}
        if platform:
            value["pipeline_spec"]["platform_spec"] = platform[0]
        return self._add(self.versions, "pipeline_version_id", value)

    def _page(self, field: str, found: list[dict[str, Any]], query: dict[str, str]) -> dict[str, Any]:
        for predicate in json.loads(query.get("filter") or "{}").get("predicates", []):
            found = [value for value in found if value[predicate["key"]] == predicate["stringValue"]]
        start = int(query.get("page_token") or 0)
        page: dict[str, Any] = {"total_size": len(found)}
        if found:
            page[field] = found[start : start + _PAGE]
        if start + _PAGE < len(found):
            page["next_page_token"] = str(start + _PAGE)
        return page

    def _handler(api: "KubeflowApi") -> type[http.server.BaseHTTPRequestHandler]:
        class Handler(http.server.BaseHTTPRequestHandler):
            def _serve(self) -> None:
                path, _, text = self.path.partition("?")
                query = dict(urllib.parse.parse_qsl(text))
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                api.requests.append((self.command, path))
                api.tokens.add(self.headers.get("Authorization"))
                if api.refuse and not path.endswith("/healthz"):
                    status, answer = api.refuse[0], {"code": 7, "message": api.refuse[1], "details": []}
                else:
                    answer = api.answer(self.command, path, query, self._content(body))
                    status = 200 if answer is not None else 404
                data = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def _content(self, body: bytes) -> Any:
                kind = self.headers.get("Content-Type", "")
                if not body:
                    return None
                if re.match("multipart/form-data", kind):
                    whole = b"Content-Type: " + kind.encode() + b"\r\n\r\n" + body
                    (part,) = email.message_from_bytes(whole, policy=email.policy.HTTP).iter_parts()
                    return part.get_payload(decode=True)
                return json.loads(body)

            do_GET = do_POST = do_DELETE = _serve

            def log_message(self, *_: object) -> None:
                pass

        return Handler
