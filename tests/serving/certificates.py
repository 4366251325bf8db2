"""Certificates for tests: made here, good for the loopback address."""

import datetime
import pathlib
from typing import Any

import trustme

from serving.client import Credentials


class Authority:
    """A certificate authority; files of `name` are written into `folder`."""

    def __init__(self, folder: pathlib.Path, name: str = "ca") -> None:
        self._folder = folder
        self._ca = trustme.CA()
        self.file = str(folder / f"{name}.pem")
        self._ca.cert_pem.write_to_path(self.file)

    def issue(self, name: str, *hosts: str, expired: bool = False) -> tuple[str, str]:
        """Writes a certificate and its key, over what was there; returns their files."""
        day = datetime.timedelta(days=1)
        now = datetime.datetime.now(datetime.timezone.utc)
        options: dict[str, Any] = {"not_before": now - 3 * day, "not_after": now - day} if expired else {}
        issued = self._ca.issue_cert(*(hosts or ("127.0.0.1",)), common_name=f"{name}.example", **options)
        cert, key = self._folder / f"{name}.crt", self._folder / f"{name}.key"
        # As tools for this do it: the new one is complete before it is there.
        for file, data in ((key, issued.private_key_pem.bytes()), (cert, _chain(issued))):
            beside = file.with_suffix(".new")
            beside.write_bytes(data)
            beside.replace(file)
        return str(cert), str(key)

    def client(self, name: str = "client", *, expired: bool = False, **options: Any) -> Credentials:
        """Returns the credentials of a client that trusts this authority and has a certificate of it."""
        cert, key = self.issue(name, expired=expired)
        return Credentials(ca=self.file, cert=cert, key=key, **options)


def _chain(issued: Any) -> bytes:
    return b"".join(pem.bytes() for pem in issued.cert_chain_pems)
