"""One line for a request: for those that fail, and for a share of the others. Never what was asked, or the token."""

import logging
import random
import time
from collections.abc import Callable, Mapping
from typing import Any

import grpc

from serving.gateway.interception import Behavior, WrappingLayer
from serving.gateway.rate import Rate
from serving.telemetry.codes import code_of

# Under attack or overload most requests fail, and writing that down must not become the work.
_FAILURES_A_SECOND = 20.0
_SUCCESSES_A_SECOND = 200.0
_NAMES = {code.value[0]: code.name for code in grpc.StatusCode}
# What is somebody's fault here, and not the client's.
_OURS = {"INTERNAL", "UNKNOWN", "DATA_LOSS", "UNAVAILABLE", "UNIMPLEMENTED"}
_log = logging.getLogger(__name__)


class RequestLog(WrappingLayer):
    """Logs the requests of a service."""

    def __init__(self, service: str, answers: Mapping[str, Callable[[bytes], Any]], share: float) -> None:
        """answers: reads the answer of each method. share: of those that don't fail, in [0, 1]; all at level DEBUG."""
        super().__init__(service, self._logging)
        self._answers = answers
        self._share = share
        self._failures = Rate(_FAILURES_A_SECOND)
        self._successes = Rate(_SUCCESSES_A_SECOND)

    def _logging(self, name: str, behavior: Behavior) -> Behavior:
        async def run(request: Any, context: Any) -> Any:
            begun = time.perf_counter()
            try:
                answer = await behavior(request, context)
            except BaseException as error:
                if self._failures.allow():
                    code = _NAMES[code_of(error, context)]
                    level = logging.WARNING if code in _OURS else logging.INFO
                    unwritten = self._failures.take_refused()
                    self._write(level, name, code, request, None, context, time.perf_counter() - begun, unwritten)
                raise
            if self._share and random.random() < self._share and self._successes.allow():
                self._write(logging.INFO, name, "OK", request, answer, context, time.perf_counter() - begun, 0)
            elif _log.isEnabledFor(logging.DEBUG):
                self._write(logging.DEBUG, name, "OK", request, answer, context, time.perf_counter() - begun, 0)
            return answer

        return run

    def _write(
        self, level: int, name: str, code: str, request: Any, answer: Any, context: Any, seconds: float, unwritten: int
    ) -> None:
        fields: dict[str, Any] = {
            "method": name,
            "code": code,
            "milliseconds": round(1000 * seconds, 3),
            "peer": context.peer(),
            # Where it was refused unread nobody knows.
            "request_bytes": len(request) if isinstance(request, bytes) else None,
        }
        if answer is not None:
            data = answer if isinstance(answer, bytes) else answer.SerializeToString()
            fields |= {"answer_bytes": len(data), "release_id": _release_id(self._answers[name](data))}
        if unwritten:
            fields["unwritten"] = unwritten
        shown = {key: value for key, value in fields.items() if value not in (None, "") and key != "method"}
        text = " ".join(f"{key}={value}" for key, value in shown.items())
        _log.log(level, "%s %s", name, text, extra={"fields": fields})


def _release_id(answer: Any) -> str:
    release = getattr(answer, "release", None)
    return str(getattr(answer, "release_id", "") or getattr(release, "release_id", ""))
