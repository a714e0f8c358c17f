"""The token of somebody at a terminal: from a server in development, or signed with a secret here.

login = Login("ws://127.0.0.1:8000/ws", user="alice")
await login.look()
async with connect(login.url, get_token=login.token) as client:
    ...
"""

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
from attrs import define

from netra_trio.auth.tokens import TokenVerifier
from netra_trio.client import Network, NoAnswer, OpeningRefused, TokenUnavailable
from netra_trio.client.network import words_of
from netra_trio.config.loading import load
from netra_trio.config.settings import SECRET_FILE
from netra_trio.errors import NetraError, SettingsError

CONNECT_SECONDS = 10.0
TOKEN_SECONDS = 24 * 3600  # of a token signed here


class NoWayIn(NetraError):
    """There is no way in; the text says why and what to do."""


@define(eq=False)
class Login:
    """The way in for a user.

    Args:
        url: The server's WebSocket.
        user: The user's id.
    """

    url: str
    user: str
    _found: str | None = None

    async def look(self) -> None:
        """Get the first token.

        Raises:
            NoWayIn: Nobody is there, or there is no token.
        """
        try:
            self._found = await self._find()
        except NoAnswer as silence:
            raise nobody(self.url, str(silence)) from None

    async def token(self) -> str:
        """Return a token, a new one each time: `get_token` for a client.

        Raises:
            TokenUnavailable: Nobody answers right now.
            NoWayIn: There is no token any more.
        """
        found, self._found = self._found, None
        try:
            return found or await self._find()
        except NoAnswer as silence:
            raise TokenUnavailable(str(silence)) from None

    async def _find(self) -> str:
        try:
            async with httpx2.AsyncClient(timeout=CONNECT_SECONDS) as http:
                answer = await http.post(
                    f"{_origin(self.url)}/ws/dev-token", json={"user": self.user}
                )
            if answer.status_code == httpx2.codes.OK:
                return str(answer.json()["token"])
        except httpx2.InvalidURL as error:
            raise nobody(self.url, str(error)) from None
        except httpx2.HTTPError as error:
            raise NoAnswer(words_of(error)) from None
        return self._sign()

    def _sign(self) -> str:
        try:
            sign = signer(os.environ, Path.cwd(), seconds=TOKEN_SECONDS)
        except SettingsError as wrong:
            raise NoWayIn(str(wrong)) from None
        if sign is None:
            raise NoWayIn(
                "this server gives no token to developers: use --token, or set JWT_SECRET_KEY here"
            )
        return sign(self.user)


def signer(
    environ: Mapping[str, str], directory: Path, *, seconds: float
) -> Callable[[str], str] | None:
    """Return what signs tokens of users with the secret that is set or kept here, if there is one.

    Args:
        environ: The settings; of them those of tokens count, as others need not be a server's.
        directory: Where a secret of development may be kept.
        seconds: How long a token is good.

    Raises:
        SettingsError: The settings of tokens are wrong.
    """
    given = {
        name: text for name, text in environ.items() if name.startswith("JWT_") and text.strip()
    }
    is_kept = (directory / SECRET_FILE).exists()
    if not (given.keys() & {"JWT_SECRET_KEY", "JWT_SECRET_KEY_FILE"} or is_kept):
        return None
    loaded = load({**given, "DATABASE_URL": "sqlite://"}, directory=directory)
    verifier = TokenVerifier.of(loaded.settings)

    def sign(user: str) -> str:
        return verifier.sign(user, expires_at=time.time() + seconds)

    return sign if verifier.can_sign else None


async def look_for_server(url: str) -> None:
    """Look whether anybody is there at all: to try again and again would only hide a wrong url.

    Raises:
        NoWayIn: Nobody is.
    """
    try:
        await Network().discover(f"{_origin(url)}/ws/config")
    except OpeningRefused:
        return  # the opening will say more
    except (NoAnswer, httpx2.InvalidURL, ValueError) as error:
        raise nobody(url, str(error)) from None


def nobody(url: str, why: str) -> NoWayIn:
    """Return the error of a server that is not there."""
    return NoWayIn(
        f"cannot connect to {url}: {why}. Is the server running? Start it with: netra-trio serve"
    )


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{'https' if parts.scheme == 'wss' else 'http'}://{parts.netloc}"
