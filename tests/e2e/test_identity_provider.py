"""Tokens of a real identity provider, npm's `oidc-provider`: rotation, outage and recovery.

The provider and the server are processes of their own; the keys are this test's, so that the
provider can come back with others.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import jwt
import pytest
import trio
from attrs import define, field
from support.keyserver import SIGNERS, Signer
from support.node import running_script
from support.ports import kept_port
from support.server import PATIENCE, Server, run, serving

pytestmark = pytest.mark.unmeasured

CLIENT, PASSWORD = "alice", "the-password-of-a-client-of-thirty-two-bytes"
AUDIENCE = "netra"
ALGORITHMS = tuple(SIGNERS)


@define(eq=False)
class IdentityProvider:
    """The provider; `start` and `stop` keep its port."""

    _port: int
    issuer: str = ""
    _running: ExitStack = field(factory=ExitStack)

    def start(self, *signers: Signer) -> None:
        """Run it with these keys."""
        argument = {
            "port": self._port,
            "keys": [signer.private_jwk() for signer in signers],
            "client": CLIENT,
            "secret": PASSWORD,
            "audience": AUDIENCE,
        }
        ready = self._running.enter_context(running_script("identity.mjs", argument))
        self.issuer = ready["issuer"]

    def stop(self) -> None:
        """Kill it."""
        self._running.close()

    def token(self, algorithm: str) -> str:
        """Get a token with the client credentials grant, as a service does."""
        answer = httpx2.post(
            f"{self.issuer}/token",
            auth=(CLIENT, PASSWORD),
            data={
                "grant_type": "client_credentials",
                "resource": f"https://netra.example.com/{algorithm}",
                "scope": "netra:talk",
            },
            timeout=PATIENCE,
            trust_env=False,
        )
        assert answer.status_code == 200, answer.text
        return str(answer.json()["access_token"])


@pytest.fixture
def provider() -> Iterator[IdentityProvider]:
    with kept_port() as port:
        running = IdentityProvider(port)
        running.start(*SIGNERS.values())
        yield running
        running.stop()


@contextmanager
def trusting(provider: IdentityProvider, directory: Path, **environ: str) -> Iterator[Server]:
    """Run a server that has no secret and trusts the provider."""
    with serving(
        directory,
        **{
            "JWT_SECRET_KEY": "",
            "JWT_ALGORITHMS": ",".join(ALGORITHMS),
            "JWT_JWKS_URL": f"{provider.issuer}/jwks",
            "JWT_ISSUER": provider.issuer,
            "JWT_AUDIENCE": AUDIENCE,
            **environ,
        },
    ) as server:
        yield server


def checks(server: Server) -> tuple[int, str, str]:
    """Return the HTTP status of the health check, its status, and its status of the keys."""
    answer = server.http("GET", "/ws/health")
    return answer.status_code, answer.json()["status"], answer.json()["checks"]["keys"]


async def wait_checks(server: Server, expected: tuple[int, str, str]) -> None:
    with trio.fail_after(PATIENCE):
        while await trio.to_thread.run_sync(checks, server) != expected:  # noqa: ASYNC110
            await trio.sleep(0.1)  # another process, which sends no notification


def upgrade(server: Server, token: str) -> Any:
    return server.upgrade("", ("Authorization", f"Bearer {token}"))


async def test_tokens_of_each_algorithm(provider: IdentityProvider, tmp_path: Path) -> None:
    with trusting(provider, tmp_path) as server:
        for algorithm in ALGORITHMS:
            token = provider.token(algorithm)
            assert jwt.get_unverified_header(token)["alg"] == algorithm
            async with server.connect(token=token) as client:
                assert client.hello["payload"]["user_id"] == CLIENT
                await client.say("hello", agent="echo")
                assert (await client.until("agent_completed"))[-1]["payload"]["result"] == "hello"
        await wait_checks(server, (200, "healthy", "ok"))
        # A token of the provider for another audience or from another issuer is refused.
        wrong = SIGNERS["ES256"].sign({"sub": CLIENT, "exp": 4e9, "iss": "x", "aud": AUDIENCE})
        upgrade(server, wrong).refuses(401, "INVALID_TOKEN")
        told = f"{server.process.out.text}\n{server.process.err.text}"
        assert "eyJ" not in told
        assert len(server.process.logs("keys_available")) == 1


async def test_a_server_without_a_secret_signs_nothing(
    provider: IdentityProvider, tmp_path: Path
) -> None:
    with trusting(provider, tmp_path) as server:
        assert server.token is None
        assert "--token TOKEN (from the login whose keys are at JWT_JWKS_URL)" in (
            server.process.out.text
        )
        assert server.http("POST", "/ws/dev-token", json={"user": "a"}).status_code == 404
        assert not (tmp_path / ".netra" / "secret").exists()
    environ = {"JWT_SECRET_KEY": "", "JWT_ALGORITHMS": "RS256", "JWT_JWKS_URL": "https://h/jwks"}
    command = ["-m", "netra_trio", "token", "--user", "alice"]
    code, out, err = run(command, directory=tmp_path, environ=environ)
    assert (code, out) == (1, "")
    assert "get a token from the login whose keys are at JWT_JWKS_URL" in err
    assert len(err.splitlines()) == 1


async def test_a_change_over_from_a_secret(provider: IdentityProvider, tmp_path: Path) -> None:
    secret = "the-secret-of-before-of-thirty-two-bytes"
    environ = {"JWT_SECRET_KEY": secret, "JWT_ALGORITHMS": ""}
    with trusting(provider, tmp_path, **environ) as server:
        before = jwt.encode(
            {"sub": "bob", "exp": 4e9, "iss": provider.issuer, "aud": AUDIENCE}, secret
        )
        for token, user in ((before, "bob"), (provider.token("RS256"), CLIENT)):
            async with server.connect(token=token) as client:
                assert client.hello["payload"]["user_id"] == user


async def test_rotation_outage_and_recovery(provider: IdentityProvider, tmp_path: Path) -> None:
    with trusting(provider, tmp_path) as server:
        old = provider.token("RS256")
        async with server.connect(token=old) as client:
            # Other keys with other kids are fetched when the first token arrives.
            provider.stop()
            provider.start(*(Signer.new(name, f"{name}-2") for name in ALGORITHMS))
            new = {name: provider.token(name) for name in ALGORITHMS}
            assert upgrade(server, new["ES256"]).status == 101  # it waits for the new keys
            assert upgrade(server, new["RS256"]).status == 101
            # The old keys are no longer published. Connections that used one stay open.
            upgrade(server, old).refuses(401, "INVALID_TOKEN")
            await client.answers()
            # An outage: known keys stay valid, and an unknown one is refused with 503.
            provider.stop()
            unknown = SIGNERS["ES256"].sign({"sub": "a", "exp": 4e9})
            refused = upgrade(server, unknown)
            assert refused.refuses(503, "SERVICE_UNAVAILABLE")["retry_after_ms"] == 2000
            assert refused.headers["retry-after"] == "2"
            await wait_checks(server, (200, "degraded", "unavailable"))
            assert upgrade(server, new["EdDSA"]).status == 101
            await client.send("auth", {"token": unknown}, "c-1")
            fault = await client.error("SERVICE_UNAVAILABLE")
            assert fault["recoverable"]
            assert "old token" in fault["help"]
            await client.send("auth", {"token": new["EdDSA"]}, "c-2")
            await client.expect("auth_ok")
            await client.answers()
            # The provider is available again.
            provider.start(*SIGNERS.values())
            await wait_checks(server, (200, "healthy", "ok"))
            assert upgrade(server, provider.token("RS256")).status == 101
            await client.answers()
        (down,) = server.process.logs("keys_unavailable")
        assert down["reason"].startswith("it cannot be reached (")
        assert len(server.process.logs("keys_available")) == 2
