"""Sends one notification to the webhook, over HTTP.

async with Endpoint(url, secret, wall_clock=time.time).open() as endpoint:
    await endpoint.send(notification)
"""

import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Self
from urllib.parse import urlsplit

import httpx2
import trio

from netra_trio.errors import leaves
from netra_trio.stores.notifications import Notification
from netra_trio.webhook.signature import body_of, signature

ANSWER_SECONDS = 10.0  # for a whole request, from connecting to the head of the answer


class NotDelivered(Exception):
    """The webhook has not accepted a notification; the text is the reason."""


class Endpoint:
    """The webhook; the proxy variables of the environment are used.

    Args:
        url: Its URL, `http` or `https`.
        secret: The key of the signatures.
        wall_clock: Returns Unix seconds.
        seconds: Time limit of a request.
        tls: The trusted authorities; those of the system by default.
    """

    def __init__(
        self,
        url: str,
        secret: str,
        *,
        wall_clock: Callable[[], float],
        seconds: float = ANSWER_SECONDS,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._url = url
        self._secret = secret
        self._wall_clock = wall_clock
        self._seconds = seconds
        self._tls = tls
        self._client: httpx2.AsyncClient | None = None

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Self]:
        """Open the HTTP client; `send` works only in this block."""
        async with httpx2.AsyncClient(verify=self._trust(), timeout=None) as client:
            self._client = client
            try:
                yield self
            finally:
                self._client = None

    async def check(self) -> None:
        """Check that the webhook accepts connections; nothing is sent to it.

        Raises:
            NotDelivered: If it accepts none in time.
        """
        parts = urlsplit(self._url)
        is_tls = parts.scheme.lower() == "https"
        host, port = parts.hostname or "", parts.port or (443 if is_tls else 80)
        with trio.move_on_after(self._seconds):
            try:
                if is_tls:
                    stream = await trio.open_ssl_over_tcp_stream(
                        host, port, ssl_context=self._trust(), https_compatible=True
                    )
                    async with stream:
                        await stream.do_handshake()
                else:
                    await (await trio.open_tcp_stream(host, port)).aclose()
            except (OSError, ValueError, trio.BrokenResourceError) as error:
                root = next(iter(leaves(error.__cause__ or error)))
                raise NotDelivered(type(root).__name__) from None
            return
        raise NotDelivered(f"no answer within {self._seconds:g} s")

    async def send(self, notification: Notification) -> None:
        """Send a notification; redirects are not followed. Cancelling is safe.

        Raises:
            NotDelivered: If the webhook does not answer with a status from 200 to 299 in time. It
                may have received the notification all the same.
        """
        body = body_of(notification)
        headers = {
            "content-type": "application/json",
            "user-agent": f"netra-trio/{version('netra-trio')}",
            "idempotency-key": notification.id,
            "netra-signature": signature(body, self._secret, at=int(self._wall_clock())),
        }
        status = None
        with trio.move_on_after(self._seconds):
            status = await self._post(body, headers)
        if status is None:
            raise NotDelivered(f"no answer within {self._seconds:g} s")
        if not httpx2.codes.is_success(status):
            raise NotDelivered(f"status {status}")

    async def _post(self, body: bytes, headers: dict[str, str]) -> int:
        assert self._client is not None  # noqa: S101 - for mypy: see `open`
        try:
            # The body of the answer is not read: nothing in it is used.
            async with self._client.stream(
                "POST", self._url, content=body, headers=headers, follow_redirects=False
            ) as answer:
                return answer.status_code
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError) as error:
            # Only the type of the error: its text may contain the URL, which may be a secret.
            raise NotDelivered(type(error).__name__) from None

    def _trust(self) -> ssl.SSLContext:
        if self._tls is not None:
            return self._tls
        # Loading the authorities of the system takes 20 ms or more: only if they are needed.
        is_tls = urlsplit(self._url).scheme.lower() == "https"
        return httpx2.create_ssl_context() if is_tls else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
