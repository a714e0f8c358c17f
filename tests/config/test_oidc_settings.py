"""The settings of the OpenID Connect provider: rules, defaults of tokens, and discovery."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from support.settings import KEY, STRICT, faults, loaded

from netra_trio.config.capabilities import document
from netra_trio.config.loading import load
from netra_trio.config.settings import KEY_SERVER_ALGORITHMS, Settings

ISSUER = "https://login.example.com"
OIDC = {"OIDC_ISSUER": ISSUER, "OIDC_CLIENT_ID": "netra-chat"}
WITHOUT_SECRET = {name: value for name, value in STRICT.items() if name not in KEY}


def signs_in(settings: Settings) -> Any:
    return document(settings, 0.0)["websocket_config"]["auth"].get("oidc")


@pytest.mark.parametrize("environment", ["staging", "production"])
def test_a_provider_replaces_the_secret(tmp_path: Path, environment: str) -> None:
    environ = {**WITHOUT_SECRET, **OIDC, "ENVIRONMENT": environment}
    settings = load(environ, directory=tmp_path).settings
    assert settings.jwt_secret_key is None
    assert settings.jwt_algorithms == KEY_SERVER_ALGORITHMS
    assert (settings.jwt_issuer, settings.jwt_audience) == (ISSUER, "netra-chat")


def test_the_defaults_of_tokens_can_be_replaced(tmp_path: Path) -> None:
    more = {"JWT_ISSUER": "https://old.example.com", "JWT_AUDIENCE": "netra"}
    settings = loaded(tmp_path, **OIDC, **more).settings
    assert (settings.jwt_issuer, settings.jwt_audience) == ("https://old.example.com", "netra")


@pytest.mark.parametrize(
    ("audience", "token"),
    [(None, "id_token"), ("netra-chat", "id_token"), ("netra", "access_token")],
)
def test_the_audience_chooses_the_token_of_the_pages(
    tmp_path: Path, audience: str | None, token: str
) -> None:
    more = {} if audience is None else {"JWT_AUDIENCE": audience}
    assert signs_in(loaded(tmp_path, **OIDC, **more).settings) == {
        "issuer": ISSUER,
        "client_id": "netra-chat",
        "scope": "openid profile",
        "token": token,
    }


def test_without_a_provider_discovery_has_none() -> None:
    assert signs_in(Settings()) is None
    assert signs_in(evolve(Settings(), oidc_issuer=ISSUER)) is None


def test_a_client_without_a_provider_is_a_warning(tmp_path: Path) -> None:
    outcome = loaded(tmp_path, OIDC_CLIENT_ID="netra-chat")
    assert outcome.warnings == ("OIDC_CLIENT_ID: without OIDC_ISSUER it has no effect",)
    assert outcome.settings.jwt_audience is None


def test_a_provider_without_a_client_is_a_fault(tmp_path: Path) -> None:
    (line,) = faults(tmp_path, {**KEY, "OIDC_ISSUER": ISSUER})
    assert line.startswith("OIDC_CLIENT_ID: got nothing, expected a text, because OIDC_ISSUER is")


@pytest.mark.parametrize(
    ("environment", "issuer", "expected"),
    [
        ("development", "http://localhost:9000", None),
        ("development", "http://127.0.0.1:9000/realms/a", None),
        ("development", "HTTPS://login.example.com", None),
        ("development", "http://login.example.com", "https:// in development, or a loopback"),
        ("staging", "http://localhost:9000", "https:// in staging; "),
        ("production", "http://127.0.0.1:9000", "https:// in production; "),
        ("production", "https://login.example.com/", None),
        ("production", "https://login.example.com?a=b", "a URL with https:// or http://, without"),
        ("production", "https://login.example.com#a", "a URL with https:// or http://, without"),
    ],
)
def test_the_issuer_needs_https_outside_this_machine(
    tmp_path: Path, environment: str, issuer: str, expected: str | None
) -> None:
    environ = {**STRICT, **OIDC, "OIDC_ISSUER": issuer, "ENVIRONMENT": environment}
    if expected is None:
        assert load(environ, directory=tmp_path).settings.oidc_issuer == issuer
    else:
        (line,) = faults(tmp_path, environ)
        assert line.startswith("OIDC_ISSUER: got ")
        assert expected in line


@pytest.mark.parametrize(
    ("scope", "result"),
    [
        ("openid", "openid"),
        ("  openid  api://netra/talk openid ", "openid api://netra/talk"),
        ("profile", "add openid"),
        ('openid "x"', "leave out quotes"),
        ("openid \u00e9", "leave out quotes"),
    ],
)
def test_the_scope(tmp_path: Path, scope: str, result: str) -> None:
    environ = {**KEY, **OIDC, "OIDC_SCOPE": scope}
    if result.startswith("openid"):
        assert load(environ, directory=tmp_path).settings.oidc_scope == result
    else:
        (line,) = faults(tmp_path, environ)
        assert line.startswith("OIDC_SCOPE: got ")
        assert f"; {result}" in line


@pytest.mark.parametrize(
    ("environ", "line"),
    [
        ({**OIDC, "JWT_ALGORITHMS": "HS256"}, "JWT_ALGORITHMS: got HS256, expected algorithms"),
        (
            {**KEY, **OIDC, "JWT_ALGORITHMS": "HS256"},
            "JWT_ALGORITHMS: got HS256, expected one of RS256, ES256, EdDSA too, for the key serv",
        ),
    ],
)
def test_a_provider_needs_one_of_its_algorithms(
    tmp_path: Path, environ: dict[str, str], line: str
) -> None:
    found = faults(tmp_path, {**WITHOUT_SECRET, **environ, "ENVIRONMENT": "production"})
    assert found[0].startswith(line)


def test_the_settings_of_the_documentation(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "chat-page.md").read_text(encoding="utf-8")
    block = re.search(r"```sh\n(.*?)```", page, re.DOTALL)
    assert block is not None
    environ = dict(line.split("=", 1) for line in shlex.split(block[1]))
    outcome = load(environ, directory=tmp_path)
    assert outcome.settings.jwt_issuer == environ["OIDC_ISSUER"]
    assert [w for w in outcome.warnings if "METRICS" not in w] == []
