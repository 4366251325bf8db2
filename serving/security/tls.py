"""Certificates and keys for gRPC, taken up without a restart when their files change."""

import logging
import pathlib
import ssl
from typing import Any

import grpc

from serving.gateway.checks import ConfigError
from serving.gateway.options import Security
from serving.security.files import Fresh

_log = logging.getLogger(__name__)


def server_credentials(security: Security) -> Any:
    """Returns what a server shows, and asks for where there is a `client_ca`. Raises ConfigError.

    Each connection gets what the files hold when it is made; connections that are open go on with what they have.
    """
    assert security.tls_cert is not None and security.tls_key is not None
    cert, key, client_ca = security.tls_cert, security.tls_key, security.client_ca
    files = [cert, key, *([] if client_ca is None else [client_ca])]

    def make() -> Any:
        _check_pair(cert, key)
        roots = None if client_ca is None else _read_authorities(client_ca)
        return grpc.ssl_server_certificate_configuration([(_read(key), _read(cert))], root_certificates=roots)

    fresh = _fresh(files, make, "the gateway's certificate")
    # gRPC calls this for every connection; None leaves everything as it is.
    return grpc.dynamic_ssl_server_credentials(
        fresh.get(), fresh.changed, require_client_authentication=client_ca is not None
    )


def encoder_credentials(security: Security) -> Fresh[Any] | None:
    """Returns what the encoder is asked with; None where it is asked in the clear. Raises ConfigError."""
    return _client(security.encoder_ca, security.encoder_cert, security.encoder_key, "the certificates for the encoder")


def leaf_credentials(security: Security) -> Fresh[Any] | None:
    """Returns what a leaf is asked with; None where it is asked in the clear. Raises ConfigError."""
    return _client(security.leaf_ca, security.leaf_cert, security.leaf_key, "the certificates for the leaves")


def _client(ca: str | None, cert: str | None, key: str | None, what: str) -> Fresh[Any] | None:
    if ca is None:
        return None
    files = [file for file in (ca, cert, key) if file is not None]
    return _fresh(files, lambda: channel_credentials(ca, cert, key), what)


def leaf_token(security: Security) -> Fresh[str] | None:
    """Returns the token that leaves are asked with; None where there is none. Raises ConfigError."""
    if security.leaf_token is None:
        return None
    file = security.leaf_token
    return _fresh([file], lambda: _token(file), "the token for the leaves")


def channel_credentials(ca: str | None, cert: str | None, key: str | None) -> Any:
    """Returns the credentials of a client. ca: None for the authorities that everybody trusts.

    Raises OSError and ValueError for files that can't be used.
    """
    if cert is not None and key is not None:
        _check_pair(cert, key)
    return grpc.ssl_channel_credentials(
        root_certificates=None if ca is None else _read_authorities(ca),
        private_key=None if key is None else _read(key),
        certificate_chain=None if cert is None else _read(cert),
    )


def _fresh(files: list[str], make: Any, what: str) -> Fresh[Any]:
    try:
        return Fresh(files, make, failed=lambda error: _log.error("%s can't be renewed: %s", what, error))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{what} can't be used: {error}") from error


def _token(file: str) -> str:
    words = pathlib.Path(file).read_text().split()
    if not 1 <= len(words) <= 2:
        raise ValueError(f"{file} must hold one token, alone or after a name.")
    return words[-1]


def _read(file: str) -> bytes:
    return pathlib.Path(file).read_bytes()


def _check_pair(cert: str, key: str) -> None:
    # gRPC itself would say nothing until somebody connects.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(cert, key)
    except ssl.SSLError as error:
        raise ValueError(f"{cert} and {key} are not a certificate and its key: {error.reason or error}.") from error


def _read_authorities(file: str) -> bytes:
    data = _read(file)
    try:
        ssl.create_default_context(cadata=data.decode("ascii"))
    except (ssl.SSLError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} holds no certificate of an authority: {error}.") from error
    return data
