"""Fetches the key set of a key server, or another document of a login service, over HTTP.

    body = await KeyServer("https://login.example.com/jwks").fetch()

The answers are untrusted input: the worst effect of any answer is `KeysUnavailable`.
"""

import ssl
from urllib.parse import urlsplit

import httpx2
import trio

from netra_trio.auth.jwk import KeysUnavailable

ANSWER_SECONDS = 3.0  # for a whole request, from connecting to the last byte of the answer
ANSWER_BYTES = 256 * 1024  # of the answer: a hundred keys with their certificates


class KeyServer:
    """Fetches a document over HTTP; the proxy variables of the environment are used.

    Args:
        url: The URL of the document, `http` or `https`.
        seconds: Time limit of a fetch.
        tls: The trusted authorities; those of the system by default.
    """

    def __init__(
        self, url: str, *, seconds: float = ANSWER_SECONDS, tls: ssl.SSLContext | None = None
    ) -> None:
        self._url = url
        self._seconds = seconds
        self._tls = tls

    async def fetch(self) -> bytes:
        """Return the body of one answer; redirects are not followed. Cancelling is safe.

        Raises:
            KeysUnavailable: There was no valid answer in time.
        """
        body = bytearray()
        with trio.move_on_after(self._seconds) as scope:
            try:
                await self._ask(body, scope)
            except httpx2.ConnectError as error:
                # The only text that is reported: it describes the fault of a certificate.
                raise KeysUnavailable(f"it cannot be reached ({_root_of(error)})") from None
            except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError) as error:
                raise KeysUnavailable(f"it cannot be asked ({type(error).__name__})") from None
        if len(body) > ANSWER_BYTES:
            raise KeysUnavailable(f"its answer has more than {ANSWER_BYTES} bytes")
        if scope.cancelled_caught:
            raise KeysUnavailable(f"it did not answer within {self._seconds:g} s")
        return bytes(body)

    async def _ask(self, body: bytearray, scope: trio.CancelScope) -> None:
        """Read an answer into `body`; cancel the scope if it is too long."""
        # A new connection for each fetch: one that is idle for minutes is usually closed when it is
        # needed. No compression: a small body could expand to a large one.
        headers = {"accept": "application/json", "accept-encoding": "identity"}
        async with (
            httpx2.AsyncClient(verify=self._trust(), timeout=None) as client,
            client.stream("GET", self._url, headers=headers, follow_redirects=False) as answer,
        ):
            if answer.status_code != httpx2.codes.OK:
                raise KeysUnavailable(f"it answered with status {answer.status_code}")
            if answer.headers.get("content-encoding", "identity") != "identity":
                raise KeysUnavailable("it answered with an encoding that was not asked for")
            async for piece in answer.aiter_raw():
                body += piece
                if len(body) > ANSWER_BYTES:
                    # Leaving the loop instead would leave the generators of the client to the
                    # garbage collector.
                    scope.cancel()

    def _trust(self) -> ssl.SSLContext:
        if self._tls is None:
            is_tls = urlsplit(self._url).scheme.lower() == "https"
            # Loading the authorities of the system takes 20 ms or more: once, and only if needed.
            self._tls = (
                httpx2.create_ssl_context() if is_tls else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            )
        return self._tls


def _root_of(error: BaseException) -> str:
    """Return a short text of the root cause of an error."""
    while (before := error.__cause__ or error.__context__) is not None:
        error = before
    return (str(error) or type(error).__name__)[:200]
