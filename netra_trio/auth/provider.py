"""An OpenID Connect provider: its discovery document, and the keys that the document names.

    provider = IdentityProvider("https://login.example.com")
    keys = KeySet(provider.fetch)

OpenID Connect Discovery 1.0 defines the document. It is untrusted input: a document of another
issuer is refused, and one with an address without TLS, whose answers could be replaced on the way.
"""

import ssl
from typing import Any

import orjson
import trio
from attrs import frozen

from netra_trio.auth.jwk import KeysUnavailable
from netra_trio.auth.key_server import ANSWER_SECONDS, KeyServer
from netra_trio.config.value_kinds import WebUrl, is_loopback

WELL_KNOWN = "/.well-known/openid-configuration"


@frozen
class ProviderDocument:
    """The parts of a discovery document that this server and the chat page use.

    Attributes:
        jwks_uri: Where the keys are.
        token_endpoint: Where the page exchanges a code for tokens.
        algorithms: The algorithms that ID tokens are signed with, as far as the document says.
        challenge_methods: The methods of PKCE; None if the document does not say.
    """

    jwks_uri: str
    token_endpoint: str
    algorithms: tuple[str, ...]
    challenge_methods: tuple[str, ...] | None


class IdentityProvider:
    """Fetches the discovery document of an issuer, and then the key set that it names.

    Args:
        issuer: The issuer, exactly as its document and its tokens name it.
        seconds: Time limit of a fetch of both.
        tls: The trusted authorities; those of the system by default.

    Attributes:
        issuer: The issuer.
        document: The latest valid document; None before the first one.
    """

    def __init__(
        self, issuer: str, *, seconds: float = ANSWER_SECONDS, tls: ssl.SSLContext | None = None
    ) -> None:
        self.issuer = issuer
        self.document: ProviderDocument | None = None
        self._seconds = seconds
        self._tls = tls
        self._discovery = self._server(discovery_url(issuer))
        self._keys: tuple[str, KeyServer] | None = None

    async def fetch(self) -> bytes:
        """Return the body of the key set; cancelling is safe.

        Raises:
            KeysUnavailable: There was no valid document, or no valid key set, in time.
        """
        with trio.move_on_after(self._seconds):
            self.document = parse_document(await self._discovery.fetch(), self.issuer)
            url = self.document.jwks_uri
            if self._keys is None or self._keys[0] != url:
                self._keys = (url, self._server(url))
            return await self._keys[1].fetch()
        raise KeysUnavailable(f"it did not answer within {self._seconds:g} s")

    def _server(self, url: str) -> KeyServer:
        return KeyServer(url, seconds=self._seconds, tls=self._tls)


def discovery_url(issuer: str) -> str:
    """Return the address of an issuer's discovery document."""
    return issuer.removesuffix("/") + WELL_KNOWN


def parse_document(body: bytes, issuer: str) -> ProviderDocument:
    """Return the used members of a discovery document.

    Raises:
        KeysUnavailable: The body is no such document, or is the document of another issuer.
    """
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:  # raised for too deep nesting too
        raise KeysUnavailable("its discovery document is not JSON") from None
    if not isinstance(found, dict):
        raise KeysUnavailable("its discovery document is no object")
    _check_issuer(found.get("issuer"), issuer)
    _endpoint(found, "authorization_endpoint", issuer)
    methods = found.get("code_challenge_methods_supported")
    return ProviderDocument(
        jwks_uri=_endpoint(found, "jwks_uri", issuer),
        token_endpoint=_endpoint(found, "token_endpoint", issuer),
        algorithms=_strings(found.get("id_token_signing_alg_values_supported")),
        challenge_methods=None if methods is None else _strings(methods),
    )


def _check_issuer(named: object, issuer: str) -> None:
    """Check that the document is the issuer's own: another one could sign in as any user."""
    if named == issuer:
        return
    text = "its discovery document is of another issuer"
    if isinstance(named, str) and named.rstrip("/") == issuer.rstrip("/"):
        end = "with" if named.endswith("/") else "without"
        text += f", which is written {end} a slash at the end"
    raise KeysUnavailable(f"{text}; OIDC_ISSUER has to equal the document's issuer")


def _endpoint(found: dict[str, Any], name: str, issuer: str) -> str:
    value = found.get(name)
    try:
        url = WebUrl().read(value) if isinstance(value, str) else ""
    except ValueError:
        url = ""
    is_local = not issuer.lower().startswith("https:") and is_loopback(url)
    if not (url.lower().startswith("https:") or (url and is_local)):
        raise KeysUnavailable(f"its discovery document has no valid {name} with https")
    return url


def _strings(value: object) -> tuple[str, ...]:
    return tuple(each for each in value if type(each) is str) if isinstance(value, list) else ()
