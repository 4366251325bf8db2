"""Keeps queries from waiting for an encoder that doesn't answer: a time limit, and a circuit breaker per version."""

from collections.abc import Sequence

from serving.encoders.breaker import Breaker, State
from serving.search import errors
from serving.search.encoder import Embeddings, Encoder
from serving.search.lru import Lru

# What the gateway itself needs of a request's time, after the encoder: to search, and to say that time is up.
MARGIN_SECONDS = 0.02
MARGIN_SHARE = 0.1
# A client that gave less time than this has learned nothing about the encoder when it is over.
_FAIR_SECONDS = 0.2
_VERSIONS = 64


class GuardedEncoder:
    """An Encoder in front of another. Fails at once with EncoderUnavailable while that one keeps failing."""

    def __init__(self, encoder: Encoder, *, seconds: float, failures: int, pause: float) -> None:
        """seconds: the longest that a call may take. failures: in a row, after which there is none for `pause` s."""
        self._encoder = encoder
        self._seconds = seconds
        self._failures = failures
        self._pause = pause
        # By version: one that isn't loaded says nothing about the others.
        self._breakers: Lru[tuple[str, int], Breaker] = Lru(_VERSIONS)
        self._last = ""

    def breaker(self, model: str, version: int) -> Breaker:
        """Returns the breaker of a version."""
        key = (model, version)
        breaker = self._breakers.get([key]).get(key)
        if breaker is None:
            breaker = Breaker(self._failures, self._pause)
            self._breakers.put([(key, breaker)])
        return breaker

    async def encode(self, images: Sequence[bytes], *, model: str, version: int, timeout: float) -> Embeddings:
        """See Encoder. The encoder is given a little less time than `timeout`."""
        breaker = self.breaker(model, version)
        if not breaker.allow():
            raise errors.EncoderUnavailable(f"the encoder failed again and again; it is asked again soon. {self._last}")
        inner = min(timeout - min(MARGIN_SECONDS, MARGIN_SHARE * timeout), self._seconds)
        try:
            embeddings = await self._encoder.encode(images, model=model, version=version, timeout=inner)
        except errors.EncoderUnavailable as error:
            self._last = str(error)
            breaker.failed()
            raise
        except errors.DeadlineExceeded as error:
            if inner < self._seconds:
                breaker.failed() if inner >= _FAIR_SECONDS else breaker.abandoned()
                raise
            self._last = f"It did not answer within {self._seconds:g} s."
            breaker.failed()
            raise errors.EncoderUnavailable(f"the encoder did not answer within {self._seconds:g} s.") from error
        except errors.RetrievalError:
            # It said no, but it is there.
            breaker.succeeded()
            raise
        except BaseException:
            breaker.abandoned()
            raise
        breaker.succeeded()
        return embeddings

    async def available(self, *, model: str, version: int, timeout: float) -> bool:
        """See Encoder. What this finds counts, too: an encoder that is back is asked again at once."""
        breaker = self.breaker(model, version)
        found = await self._encoder.available(model=model, version=version, timeout=timeout)
        if found:
            breaker.try_again()
        elif breaker.state is State.CLOSED:
            self._last = "It does not say that this version is available."
            breaker.failed()
        return found
