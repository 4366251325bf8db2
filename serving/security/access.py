"""Lets in who has a token that is good for what is asked, before anything of the request is read."""

from collections.abc import Mapping
from typing import Any

import grpc
from grpc_status import rpc_status

from serving.gateway.health import SERVICE
from serving.gateway.interception import Behavior, WrappingLayer, refusing
from serving.gateway.options import Logs, Security
from serving.gateway.status import to_status
from serving.search import errors
from serving.security.audit import Audit
from serving.security.tokens import Principal, Role, Tokens

# Everything that is not named here needs ADMIN.
ROLES: Mapping[str, Role | None] = {
    f"/{SERVICE}/Search": Role.READ,
    f"/{SERVICE}/BatchSearch": Role.READ,
    f"/{SERVICE}/Encode": Role.READ,
    f"/{SERVICE}/GetItem": Role.READ,
    f"/{SERVICE}/BatchGetItems": Role.READ,
    f"/{SERVICE}/GetRelease": Role.READ,
    # It lists what is no longer, or not yet, or never to be served, and why.
    f"/{SERVICE}/ListReleases": Role.ADMIN,
    # They change what everybody finds.
    f"/{SERVICE}/Upsert": Role.ADMIN,
    f"/{SERVICE}/BatchUpsert": Role.ADMIN,
    f"/{SERVICE}/Delete": Role.ADMIN,
    f"/{SERVICE}/BatchDelete": Role.ADMIN,
    # A leaf answers roots alone, with what Search and GetItem give, and embeddings.
    "/lookalike.leaf.v1.LeafService/Search": Role.READ,
    "/lookalike.leaf.v1.LeafService/GetItems": Role.READ,
    "/lookalike.leaf.v1.LeafService/GetStatus": Role.READ,
    # Probes and load balancers have no token, and learn only whether it is up.
    "/grpc.health.v1.Health/Check": None,
    "/grpc.health.v1.Health/Watch": None,
    "/grpc.health.v1.Health/List": None,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": Role.READ,
}
_NOBODY = Principal("anybody", Role.ADMIN)
_SCHEME = "bearer "


class AccessLayer:
    """Refuses with UNAUTHENTICATED who has no good token, with PERMISSION_DENIED whose token is not good enough.

    What takes ADMIN, and who tried, is told to the audit log.
    """

    def __init__(self, tokens: Tokens | None, audit: Audit) -> None:
        """tokens: None lets everybody do everything, where something else has kept others out."""
        self._tokens = tokens
        self._audit = audit
        self._audited: dict[tuple[str, Principal], WrappingLayer] = {}
        self._missing = refusing(self._refuse(errors.Unauthenticated("a token is needed: authorization: Bearer ...")))
        self._unknown = refusing(self._refuse(errors.Unauthenticated("the token is not known here.")))
        self._denied: dict[tuple[str, Principal], Any] = {}

    def around(self, handler: Any, details: grpc.HandlerCallDetails) -> Any:
        """Returns the handler, or one that refuses."""
        method = details.method
        needed = ROLES.get(method, Role.ADMIN)
        if needed is None:
            return handler
        principal: Principal | None = _NOBODY
        if self._tokens is not None:
            token = _token(details.invocation_metadata)
            if token is None:
                return self._missing
            principal = self._tokens.who(token)
            if principal is None:
                return self._unknown
        assert principal is not None
        if principal.role < needed:
            return self._denial(method, principal)
        if needed is Role.ADMIN:
            return self._auditing(method, principal).around(handler, details)
        return handler

    def _denial(self, method: str, principal: Principal) -> Any:
        key = (method, principal)
        if key not in self._denied:
            if len(self._denied) > 1000:
                # Names of methods are the client's to invent.
                self._denied.clear()
            text = (
                f"{method.rpartition('/')[2][:100]} needs the role admin, this token has {principal.role.name.lower()}."
            )
            self._denied[key] = refusing(self._refuse(errors.PermissionDenied(text), method, principal))
        return self._denied[key]

    def _auditing(self, method: str, principal: Principal) -> WrappingLayer:
        key = (method, principal)
        if key not in self._audited:
            if len(self._audited) > 1000:
                self._audited.clear()

            def wrap(name: str, behavior: Behavior) -> Behavior:
                return self._audit.wrapped(name, principal, behavior)

            self._audited[key] = WrappingLayer(method.rpartition("/")[0][1:], wrap)
        return self._audited[key]

    def _refuse(self, error: errors.RetrievalError, method: str = "", principal: Principal | None = None) -> Any:
        status = rpc_status.to_status(to_status(error))

        async def abort(context: Any) -> None:
            if principal is not None:
                self._audit.denied(method.rpartition("/")[2], principal, context)
            await context.abort_with_status(status)

        return abort


def access_layers(security: Security, logs: Logs) -> list[AccessLayer]:
    """Returns what the options ask for: none where nobody is asked and nothing is written down. Raises ConfigError."""
    files = {Role.READ: security.read_tokens, Role.ADMIN: security.admin_tokens}
    given = {role: file for role, file in files.items() if file is not None}
    if not given and logs.audit_file is None:
        return []
    return [AccessLayer(Tokens(given) if given else None, Audit())]


def _token(metadata: Any) -> str | None:
    """Returns the token of a request's metadata, None without one, or where it isn't clear which."""
    values = [value for key, value in metadata or () if key == "authorization"]
    if len(values) != 1 or not isinstance(values[0], str) or not values[0].lower().startswith(_SCHEME):
        return None
    return values[0][len(_SCHEME) :].strip()
