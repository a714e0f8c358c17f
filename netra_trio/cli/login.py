"""Tokens for commands: from a server in development, or signed with the secret that is set here.

login = Login("ws://127.0.0.1:8000/ws", user="alice")
await login.prepare()
async with connect(login.url, get_token=login.token) as client:
    ...
"""

import os
import ssl
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from attrs import define

from netra_trio.auth.tokens import TokenVerifier
from netra_trio.cli.errors import CommandError
from netra_trio.cli.probe import BadAddress, Probe
from netra_trio.client import NoAnswer, OpeningRefused, TokenUnavailable
from netra_trio.client.retry import Next, after_refusal
from netra_trio.config.loading import load
from netra_trio.config.settings import SECRET_FILE
from netra_trio.errors import SettingsError

DEV_USER = "dev"  # the user of commands that are given neither a user nor a token
TOKEN_SECONDS = 24 * 3600  # of a token that is signed here

_OK = 200  # the HTTP status


class LoginError(CommandError):
    """There is no token, or no server; the text says why and what to do."""


@define(eq=False)
class Login:
    """The tokens of a user.

    Args:
        url: The server's WebSocket.
        user: The user's id.
    """

    url: str
    user: str
    _first: str | None = None
    _has_worked: bool = False  # then another answer than the server's is temporary

    async def prepare(self) -> None:
        """Get the first token.

        Raises:
            LoginError: There is no server, or no token.
        """
        try:
            self._first = await self._get()
        except NoAnswer as no_answer:
            raise no_server(self.url, str(no_answer)) from None

    async def token(self) -> str:
        """Return a token, a new one each time: the `get_token` of a client.

        Raises:
            TokenUnavailable: The server does not answer now.
            LoginError: There is no token any more.
        """
        first, self._first = self._first, None
        try:
            return first or await self._get()
        except NoAnswer as no_answer:
            raise TokenUnavailable(str(no_answer)) from None

    async def _get(self) -> str:
        reply = await _probe(self.url).request("POST", "/dev-token", {"user": self.user})
        token = (reply.body or {}).get("token")
        if reply.status == _OK and isinstance(token, str):
            self._has_worked = True
            return token
        refused = OpeningRefused(reply.status, body=reply.body or {})
        is_final = refused.code is not None or not self._has_worked
        if after_refusal(reply.status, is_final=is_final) is Next.RETRY:
            raise NoAnswer(refused.reason)
        return self._sign()

    def _sign(self) -> str:
        try:
            sign = signer(os.environ, Path.cwd(), seconds=TOKEN_SECONDS)
        except SettingsError as wrong:
            raise LoginError(str(wrong)) from None
        if sign is None:
            raise LoginError(
                "this server gives no token to developers: use --token, or set JWT_SECRET_KEY here"
            )
        return sign(self.user)


def signer(
    environ: Mapping[str, str], directory: Path, *, seconds: float
) -> Callable[[str], str] | None:
    """Return a function that signs tokens with the secret that is set here; None without one.

    Args:
        environ: The settings. Only those of tokens are read: the others need not be a server's.
        directory: Where a development secret may be stored.
        seconds: How long a token is valid.

    Raises:
        SettingsError: The settings of tokens are invalid.
    """
    given = {
        name: text for name, text in environ.items() if name.startswith("JWT_") and text.strip()
    }
    is_stored = (directory / SECRET_FILE).exists()
    if not (given.keys() & {"JWT_SECRET_KEY", "JWT_SECRET_KEY_FILE"} or is_stored):
        return None
    loaded = load({**given, "DATABASE_URL": "sqlite://"}, directory=directory)
    verifier = TokenVerifier.of(loaded.settings)

    def sign(user: str) -> str:
        return verifier.sign(user, expires_at=time.time() + seconds)

    return sign if verifier.can_sign else None


async def find_server(url: str) -> None:
    """Check that a server answers at all: retries would only hide a wrong url.

    Raises:
        LoginError: No server answers.
    """
    try:
        await _probe(url).request("GET", "/config")  # the upgrade gives the reason of a refusal
    except NoAnswer as no_answer:
        raise no_server(url, str(no_answer)) from None


def no_server(url: str, why: str) -> LoginError:
    """Return the error of a server that does not answer."""
    return LoginError(
        f"cannot connect to {url}: {why}. Is the server running? Start it with: netra-trio serve"
    )


def _probe(url: str) -> Probe:
    try:
        return Probe.of(url, trust=ssl.create_default_context(), origin=None)
    except BadAddress as error:
        raise LoginError(f"cannot connect to {url}: {error}") from None
