"""Bearer tokens: which there are, and what they are good for. Read from files, again when those change."""

import dataclasses
import enum
import hashlib
import hmac
import logging
import pathlib
import time
from collections.abc import Callable, Mapping

from serving.gateway.checks import ConfigError
from serving.security.files import Fresh

# Of a token: shorter ones can be guessed.
_SHORTEST = 16
_LONGEST = 1024
# How often the files are looked at.
_LOOK_SECONDS = 1.0
_log = logging.getLogger(__name__)


class Role(enum.IntEnum):
    """What somebody may do; whoever may do more may do less."""

    READ = 1
    ADMIN = 2


@dataclasses.dataclass(frozen=True)
class Principal:
    """Somebody who was recognised. name: for the log; as the file has it, or its place there."""

    name: str
    role: Role


class Tokens:
    """The tokens that are good."""

    def __init__(self, files: Mapping[Role, str], clock: Callable[[], float] = time.monotonic) -> None:
        """files: with the tokens of each role. Raises ConfigError where they can't be used."""
        self._clock = clock
        try:
            self._fresh = Fresh(
                list(files.values()),
                lambda: {
                    digest: who for role, file in files.items() for digest, who in read_tokens(file, role).items()
                },
                failed=lambda error: _log.error("tokens can't be renewed, the old ones stay good: %s", error),
            )
        except (OSError, ValueError) as error:
            raise ConfigError(f"tokens can't be used: {error}") from error
        self._known = self._fresh.get()
        self._look_at = clock() + _LOOK_SECONDS

    def who(self, token: str) -> Principal | None:
        """Returns whose token this is, None where it is nobody's. Takes as long for any token that is not too long."""
        now = self._clock()
        if now >= self._look_at:
            self._look_at = now + _LOOK_SECONDS
            self._known = self._fresh.get()
        digest = _digest(token[:_LONGEST])
        found = None
        # To the end, whatever was found: how long it takes must not tell how near a guess is.
        for known, principal in self._known.items():
            if hmac.compare_digest(known, digest):
                found = principal
        return found


def read_tokens(file: str, role: Role) -> dict[bytes, Principal]:
    """Returns who has which token, by the token's sha256.

    A line is a token, or a name and a token; empty ones and those after a # are left out. Raises OSError, ValueError:
    with the number of the line, never with what stands there.
    """
    found = {}
    for number, line in enumerate(pathlib.Path(file).read_text("utf-8").splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) > 2:
            raise ValueError(f"{file}, line {number}: a line is a token, or a name and a token.")
        token = words[-1]
        if not _SHORTEST <= len(token) <= _LONGEST or not token.isascii() or not token.isprintable():
            raise ValueError(
                f"{file}, line {number}: a token has {_SHORTEST} to {_LONGEST} ASCII characters, got {len(token)}."
            )
        name = words[0] if len(words) == 2 else f"{pathlib.Path(file).name}:{number}"
        found[_digest(token)] = Principal(name, role)
    return found


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
