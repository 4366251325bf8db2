"""The audit log: what was done that takes an admin, by whom, from where, and how it ended."""

import logging
import time
from typing import Any

import grpc

from serving.gateway.interception import Behavior
from serving.gateway.rate import Rate
from serving.security.tokens import Principal
from serving.telemetry.codes import code_of

AUDIT = logging.getLogger("serving.audit")
# Whoever tries again and again must not fill the disk.
_DENIED_A_SECOND = 10.0


class Audit:
    """Writes to the logger `serving.audit`."""

    def __init__(self) -> None:
        self._rate = Rate(_DENIED_A_SECOND)

    def wrapped(self, name: str, principal: Principal, behavior: Behavior) -> Behavior:
        """Returns a method that is logged. name: of the method."""

        async def run(request: Any, context: Any) -> Any:
            begun, code = time.perf_counter(), 0
            try:
                return await behavior(request, context)
            except BaseException as error:
                code = code_of(error, context)
                raise
            finally:
                self._write(name, principal, context, code, time.perf_counter() - begun)

        return run

    def denied(self, name: str, principal: Principal, context: Any) -> None:
        """Logs that somebody tried what takes an admin; name: of the method, as they gave it."""
        if self._rate.allow():
            self._write(name[:100], principal, context, grpc.StatusCode.PERMISSION_DENIED.value[0], 0.0)

    def _write(self, name: str, principal: Principal, context: Any, code: int, seconds: float) -> None:
        fields = {
            "method": name,
            "code": _NAMES[code],
            "principal": principal.name,
            "role": principal.role.name.lower(),
            "peer": context.peer(),
            "certificate": _certificate(context),
            "seconds": round(seconds, 6),
            "unwritten": self._rate.take_refused(),
        }
        AUDIT.info(
            "%s by %s from %s: %s", name, principal.name, fields["peer"], fields["code"], extra={"fields": fields}
        )


def _certificate(context: Any) -> str:
    """Returns the name in the client's certificate, empty without one."""
    names = context.auth_context().get("x509_common_name", ()) or context.auth_context().get("x509_subject", ())
    return ", ".join(name.decode("utf-8", "replace") for name in names)


_NAMES = {code.value[0]: code.name for code in grpc.StatusCode}
