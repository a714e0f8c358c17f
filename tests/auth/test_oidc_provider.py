"""An OpenID Connect provider: discovery, invalid documents, outages and rotation."""

import ssl
from typing import Any

import pytest
import trio
import trustme
from attrs import evolve
from support.keyserver import (
    DISCOVERY,
    LIES,
    LoopbackKeyServer,
    Signer,
    http_answer,
    key_server,
    key_set,
)
from support.keysets import EC, ED, NEW, RSA, kids

from netra_trio.auth.jwk import KeysUnavailable
from netra_trio.auth.provider import IdentityProvider, discovery_url, parse_document
from netra_trio.auth.tokens import TokenVerifier
from netra_trio.config.settings import Settings
from netra_trio.errors import SettingsError
from netra_trio.protocol.codes import ErrorCode
from netra_trio.protocol.problem import Refused

CLIENT = "netra-chat"
NOW = 1_800_000_000.0
OTHER_ISSUER = "its discovery document is of another issuer"


def settings_of(server: LoopbackKeyServer, **more: Any) -> Settings:
    return Settings(oidc_issuer=server.issuer, oidc_client_id=CLIENT, **more)


def id_token(server: LoopbackKeyServer, signer: Signer = RSA, **more: Any) -> str:
    claims = {"sub": "alice", "exp": NOW + 60, "iss": server.issuer, "aud": CLIENT, **more}
    return signer.sign(claims)


async def why(provider: IdentityProvider) -> str:
    with pytest.raises(KeysUnavailable) as caught:
        await provider.fetch()
    assert "://" not in str(caught.value)
    return str(caught.value)


async def refusal(verifier: TokenVerifier, token: str) -> tuple[ErrorCode, str]:
    with pytest.raises(Refused) as caught:
        await verifier.verify(token, NOW)
    return caught.value.problem.code, caught.value.problem.error


@pytest.mark.parametrize("issuer", ["https://a.example.com/realms/b", "https://a.example.com/"])
def test_the_address_of_the_document(issuer: str) -> None:
    assert discovery_url(issuer) == f"{issuer.rstrip('/')}/.well-known/openid-configuration"


async def test_the_keys_are_found_by_the_document() -> None:
    with key_server(RSA, EC, ED) as server:
        server.describe(
            id_token_signing_alg_values_supported=["RS256", 5],
            code_challenge_methods_supported=["S256"],
        )
        provider = IdentityProvider(server.issuer)
        assert kids(await provider.fetch()) == ["RS256-1", "ES256-1", "EdDSA-1"]
        assert server.paths == [DISCOVERY, "/jwks"]
        assert provider.document is not None
        assert provider.document.algorithms == ("RS256",)
        assert provider.document.challenge_methods == ("S256",)
        # The provider moves its keys.
        server.describe(jwks_uri=f"{server.issuer}/moved")
        server.answers["/moved"] = http_answer(key_set(NEW))
        assert kids(await provider.fetch()) == ["new"]
        assert provider.document.challenge_methods is None


@pytest.mark.parametrize("signer", [RSA, EC, ED], ids=lambda signer: signer.algorithm)
async def test_tokens_of_each_algorithm_with_the_defaults(signer: Signer) -> None:
    with key_server(RSA, EC, ED) as server:
        server.describe()
        verifier = TokenVerifier.of(settings_of(server))
        assert verifier.provider is not None
        async with verifier.open():
            token = id_token(server, signer)
            assert (await verifier.verify(token, NOW)).user_id == "alice"
            token = id_token(server, signer, aud=["other", CLIENT])
            assert (await verifier.verify(token, NOW)).user_id == "alice"
            for wrong, text in (
                ({"aud": "other"}, "The token is for another audience."),
                ({"iss": f"{server.issuer}/"}, "The token is from another issuer."),
            ):
                token = id_token(server, signer, **wrong)
                assert await refusal(verifier, token) == (ErrorCode.INVALID_TOKEN, text)
        assert server.paths == [DISCOVERY, "/jwks"], "the keys are cached"


def test_a_provider_without_an_issuer_or_an_audience_of_tokens_is_refused() -> None:
    settings = Settings(oidc_issuer="https://login.example.com", oidc_client_id=CLIENT)
    TokenVerifier.of(settings)
    for open_to_others in (evolve(settings, jwt_issuer=None), evolve(settings, jwt_audience=None)):
        with pytest.raises(SettingsError, match="JWT_ISSUER, JWT_AUDIENCE: not set"):
            TokenVerifier.of(open_to_others)


async def test_an_audience_of_its_own_refuses_id_tokens() -> None:
    with key_server(RSA) as server:
        server.describe()
        verifier = TokenVerifier.of(settings_of(server, jwt_audience="netra"))
        async with verifier.open():
            token = id_token(server, aud="netra")
            assert (await verifier.verify(token, NOW)).user_id == "alice"
            code, _ = await refusal(verifier, id_token(server))
            assert code is ErrorCode.INVALID_TOKEN


async def test_a_key_server_beside_the_provider_is_asked_alone() -> None:
    with key_server(RSA) as server:
        verifier = TokenVerifier.of(settings_of(server, jwt_jwks_url=server.url))
        assert verifier.provider is None
        async with verifier.open():
            assert (await verifier.verify(id_token(server), NOW)).user_id == "alice"
        assert server.paths == ["/jwks"]


async def test_an_outage_from_the_start_and_a_rotation() -> None:
    with key_server(RSA) as server:
        server.describe()
        server.stop()
        verifier = TokenVerifier.of(settings_of(server))
        async with verifier.open():
            code, text = await refusal(verifier, id_token(server))
            assert code is ErrorCode.SERVICE_UNAVAILABLE
            assert "key server is not available" in text
            server.start()
            assert (await verifier.verify(id_token(server), NOW)).user_id == "alice"
            server.publish(RSA, NEW)
            assert (await verifier.verify(id_token(server, NEW), NOW)).user_id == "alice"
            server.stop()
            assert (await verifier.verify(id_token(server), NOW)).user_id == "alice"
            stranger = evolve(EC, kid="unknown")
            code, _ = await refusal(verifier, id_token(server, stranger))
            assert code is ErrorCode.SERVICE_UNAVAILABLE
            assert verifier.provider is not None
            assert verifier.provider.document is not None


async def test_a_document_of_another_issuer_gives_no_keys() -> None:
    with key_server(RSA) as server:
        server.describe(issuer="https://evil.example.com")
        verifier = TokenVerifier.of(settings_of(server))
        async with verifier.open():
            code, _ = await refusal(verifier, id_token(server))
            assert code is ErrorCode.SERVICE_UNAVAILABLE
        assert "/jwks" not in server.paths


HELP = "; OIDC_ISSUER has to equal the document's issuer"


@pytest.mark.parametrize(
    ("members", "text"),
    [
        ({"issuer": "https://evil.example.com"}, f"{OTHER_ISSUER}{HELP}"),
        ({"issuer": ...}, f"{OTHER_ISSUER}{HELP}"),
        ({"issuer": 5}, f"{OTHER_ISSUER}{HELP}"),
        (
            {"issuer": "https://login.example.com/"},
            f"{OTHER_ISSUER}, which is written with a slash at the end{HELP}",
        ),
        ({"jwks_uri": ...}, "its discovery document has no valid jwks_uri with https"),
        ({"jwks_uri": 5}, "its discovery document has no valid jwks_uri with https"),
        ({"jwks_uri": "file:///etc/passwd"}, "its discovery document has no valid jwks_uri with"),
        ({"jwks_uri": "http://login.example.com/"}, "its discovery document has no valid jwks_uri"),
        ({"jwks_uri": "http://localhost/jwks"}, "its discovery document has no valid jwks_uri"),
        ({"token_endpoint": "http://a/"}, "its discovery document has no valid token_endpoint"),
        ({"authorization_endpoint": ...}, "its discovery document has no valid authorization_endp"),
    ],
)
def test_an_invalid_document_is_refused(members: dict[str, Any], text: str) -> None:
    issuer = "https://login.example.com"
    with key_server() as server:
        server.describe(
            **{
                "issuer": issuer,
                "jwks_uri": f"{issuer}/jwks",
                "authorization_endpoint": f"{issuer}/auth",
                "token_endpoint": f"{issuer}/token",
                **members,
            }
        )
        _, _, body = server.answers[DISCOVERY].partition(b"\r\n\r\n")
    with pytest.raises(KeysUnavailable) as caught:
        parse_document(body, issuer)
    assert str(caught.value).startswith(text)


def test_an_issuer_with_a_slash_whose_document_has_none() -> None:
    with pytest.raises(KeysUnavailable, match="which is written without a slash at the end"):
        parse_document(b'{"issuer": "https://a.example.com"}', "https://a.example.com/")


@pytest.mark.parametrize("name", LIES)
async def test_any_other_answer_than_a_document_is_refused(name: str) -> None:
    with key_server(RSA) as server:
        server.answers[DISCOVERY] = LIES[name]
        provider = IdentityProvider(server.issuer)
        assert await why(provider)
        assert server.paths == [DISCOVERY]
        assert provider.document is None


async def test_both_requests_share_the_time_limit() -> None:
    with key_server(RSA) as server:
        server.describe()
        provider = IdentityProvider(server.issuer, seconds=1.0)
        # Each answer comes within the time limit, and both together do not.
        server.delays = {DISCOVERY: 0.3, "/jwks": 0.9}
        assert await why(provider) == "it did not answer within 1 s"
        server.is_mute = True
        provider = IdentityProvider(server.issuer, seconds=0.1)
        assert await why(provider) == "it did not answer within 0.1 s"
        assert provider.document is None


async def test_a_fetch_of_a_provider_can_be_cancelled() -> None:
    with key_server(RSA) as server:
        server.is_mute = True
        with trio.move_on_after(0.1) as scope:
            await IdentityProvider(server.issuer).fetch()
        assert scope.cancelled_caught


async def test_over_https_the_certificate_is_checked_for_both() -> None:
    authority = trustme.CA()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(tls)
    with key_server(RSA, tls=tls) as server:
        server.describe()
        assert "certificate verify failed" in await why(IdentityProvider(server.issuer))
        trusting = ssl.create_default_context()
        authority.configure_trust(trusting)
        provider = IdentityProvider(server.issuer, tls=trusting)
        assert kids(await provider.fetch()) == ["RS256-1"]
