"""The commands `user` and `check`: users, database, key server and broker."""

from pathlib import Path
from typing import Any

import pytest
import trio
from support.commands import Typed
from support.keyserver import SIGNERS, key_server
from support.server import run, serving, sign
from support.valkey import Server as Valkey
from support.valkey import server as valkey

from netra_trio.cli.user import open_users
from netra_trio.config.settings import Settings
from netra_trio.stores.base import User
from netra_trio.stores.sql.schema import REVISIONS


def users_of(tmp_path: Path) -> list[User]:
    """Return the users in the database of a directory."""

    async def read() -> list[User]:
        url = f"sqlite:///{tmp_path}/.netra/netra.db"
        async with open_users(Settings(database_url=url)) as store:
            return await store.list_users()

    return trio.run(read)


# --- user


def test_users_are_added_and_listed(typed: Typed, tmp_path: Path) -> None:
    assert typed("user", "list") == (0, "", "")
    assert typed("user", "add", "bob", "alice") == (0, "bob: added\nalice: added\n", "")
    assert typed("user", "add", "bob") == (0, "bob: exists already\n", "")
    assert typed("user", "list") == (0, "alice\tenabled\nbob\tenabled\n", "")


def test_a_user_is_disabled_and_enabled(typed: Typed, tmp_path: Path) -> None:
    typed("user", "add", "alice", "bob")
    assert typed("user", "disable", "alice", "bob") == (0, "alice: disabled\nbob: disabled\n", "")
    assert typed("user", "enable", "bob") == (0, "bob: enabled\n", "")
    assert [(user.id, user.enabled) for user in users_of(tmp_path)] == [
        ("alice", False),
        ("bob", True),
    ]


def test_adding_a_disabled_user_does_not_enable(typed: Typed) -> None:
    typed("user", "add", "alice")
    typed("user", "disable", "alice")
    assert typed("user", "add", "alice")[1] == "alice: exists already\n"
    assert typed("user", "list")[1] == "alice\tdisabled\n"


def test_more_users_than_a_page_are_listed(
    typed: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"user-{number}" for number in range(7)]
    typed("user", "add", *names)
    for page in (1, 2, 3, 6, 7, 8):
        monkeypatch.setattr("netra_trio.cli.user.PAGE", page)
        assert [line.split("\t")[0] for line in typed("user", "list")[1].splitlines()] == names


@pytest.mark.parametrize("command", ["disable", "enable"])
def test_an_unknown_user(typed: Typed, command: str) -> None:
    code, out, err = typed("user", command, "zoe")
    assert (code, out) == (1, "")
    assert err.endswith("there is no user 'zoe'; add it with: netra-trio user add\n")


@pytest.mark.parametrize("command", ["add", "disable", "enable"])
@pytest.mark.parametrize("name", ["", "a\nb", "x" * 256])
def test_invalid_user_ids(typed: Typed, command: str, name: str) -> None:
    code, out, err = typed("user", command, name)
    assert (code, out) == (1, "")
    assert "expected a printable user id of 1 to 255 characters" in err


@pytest.mark.parametrize("command", ["add", "disable", "enable"])
def test_no_user_is_named(typed: Typed, command: str) -> None:
    assert typed("user", command) == (1, "", "expected a user id, got nothing\n")


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:"])
def test_users_in_memory_are_rejected(typed: Typed, url: str) -> None:
    code, out, err = typed("user", "list", DATABASE_URL=url)
    assert (code, out) == (1, "")
    assert "set DATABASE_URL to a database" in err


def test_a_database_that_does_not_answer(typed: Typed) -> None:
    url = "postgresql://alice:pass-word@127.0.0.1:1/netra"
    code, out, err = typed("user", "list", DATABASE_URL=url)
    assert (code, out) == (1, "")
    assert err.startswith("the database does not answer: ")
    assert "pass-word" not in err
    assert "Traceback" not in err


def test_a_missing_folder(typed: Typed, tmp_path: Path) -> None:
    code, _, err = typed("user", "list", DATABASE_URL=f"sqlite:///{tmp_path}/no/where.db")
    assert code == 1
    assert err.startswith("DATABASE_URL: ")
    assert f"create {tmp_path}/no" in err


def test_users_of_a_running_server(tmp_path: Path, database_url: str) -> None:
    """Without automatic provisioning, the command admits and disables users."""
    environ = {
        "ENVIRONMENT": "staging",
        "DATABASE_URL": database_url,
        "WEBSOCKET_ALLOWED_ORIGINS": "https://app.example.com",
    }

    def user(*arguments: str) -> None:
        done = run(["-m", "netra_trio", "user", *arguments], directory=tmp_path, environ=environ)
        assert done[0] == 0, done

    with serving(tmp_path, **environ) as server:
        token = f"?token={sign('alice')}"
        server.upgrade(token).refuses(403, "USER_NOT_FOUND")
        user("add", "alice")
        assert server.upgrade(token).status == 101
        user("disable", "alice")
        server.upgrade(token).refuses(403, "USER_DISABLED")
        user("enable", "alice")
        assert server.upgrade(token).status == 101


# --- check


def test_check_of_a_database_that_does_not_exist_yet(typed: Typed, tmp_path: Path) -> None:
    code, out, err = typed("check")
    assert (code, err) == (0, "")
    assert "database: does not exist yet; the first start creates it" in out
    assert not (tmp_path / ".netra" / "netra.db").exists()


def test_check_of_a_database_that_answers(typed: Typed) -> None:
    typed("user", "add", "alice")
    code, out, _ = typed("check")
    assert code == 0
    assert "database: answers, SQLite 3." in out
    assert f"schema {REVISIONS[-1]}" in out


def test_check_of_a_database_without_a_schema(typed: Typed, database_url: str) -> None:
    code, out, _ = typed("check", DATABASE_URL=database_url)
    assert code == 0
    assert "database: answers, PostgreSQL 18" in out
    assert "no schema yet; the first start creates it" in out


def test_check_of_a_database_in_memory(typed: Typed) -> None:
    code, out, _ = typed("check", DATABASE_URL="sqlite://")
    assert code == 0
    assert "database: in memory" in out


@pytest.mark.parametrize(
    "url", ["postgresql://alice:pass-word@127.0.0.1:1/netra", "sqlite:////proc/version"]
)
def test_check_of_a_database_that_does_not_answer(typed: Typed, url: str) -> None:
    code, out, err = typed("check", DATABASE_URL=url)
    assert code == 1
    assert "database: does not answer: " in out
    assert "a service that they name does not answer" in err
    assert "pass-word" not in out + err


def test_check_of_a_key_server(typed: Typed) -> None:
    with key_server(*SIGNERS.values()) as keys:
        code, out, _ = typed("check", JWT_JWKS_URL=keys.url)
    assert code == 0
    assert "key server: answers, 3 usable keys (RS256, ES256, EdDSA)" in out


def test_check_of_a_key_server_that_does_not_answer(typed: Typed) -> None:
    code, out, err = typed("check", JWT_JWKS_URL="http://127.0.0.1:1/jwks")
    assert code == 1
    assert "key server: it cannot be reached" in out
    assert "a service that they name does not answer" in err


@pytest.mark.parametrize(
    ("members", "code", "line"),
    [
        ({}, 0, "answers, 3 usable keys (RS256, ES256, EdDSA)"),
        ({"issuer": "https://evil.example.com"}, 1, "its discovery document is of another issuer"),
        (
            {"id_token_signing_alg_values_supported": ["PS256", "HS256"]},
            1,
            "signs tokens with PS256, HS256, and only RS256, ES256, EdDSA are accepted",
        ),
        ({"code_challenge_methods_supported": ["plain"]}, 1, "does not offer PKCE with S256"),
    ],
)
def test_check_of_an_identity_provider(
    typed: Typed, members: dict[str, Any], code: int, line: str
) -> None:
    with key_server(*SIGNERS.values()) as server:
        server.describe(**members)
        given, out, _ = typed("check", OIDC_ISSUER=server.issuer, OIDC_CLIENT_ID="netra-chat")
    assert given == code
    assert f"identity provider: {line}" in out


def test_check_of_a_broker(typed: Typed, valkey_server: Valkey, valkey_url: str) -> None:
    code, out, _ = typed("check", REDIS_URL=valkey_url)
    assert code == 0
    (line,) = [line for line in out.splitlines() if line.startswith("broker: ")]
    assert line.startswith("broker: answers, Valkey 9.")
    assert line.endswith("takes writes, running servers: 0")
    assert valkey_server.command("KEYS", "*") == []


def test_check_of_a_broker_whose_policy_is_unknown(typed: Typed) -> None:
    with valkey() as running:
        running.command("ACL", "SETUSER", "most", "on", ">pass-word", "~*", "&*", "+@all", "-info")
        url = f"unix://most:pass-word@{running.socket}"
        code, out, _ = typed("check", REDIS_URL=url, COLUMNS="200")
    assert code == 0
    assert "its maxmemory-policy is unknown, and must be noeviction" in out
    assert f"REDIS_URL = unix://most:***@{running.socket} (environment)" in out
    assert "pass-word" not in out


@pytest.mark.parametrize(
    ("command", "text"),
    [
        (("CONFIG", "SET", "requirepass", "secret"), "cannot be used: the server requires"),
        (
            ("CONFIG", "SET", "maxmemory", "1"),
            "does not answer as needed: the server answered: OOM",
        ),
    ],
)
def test_check_of_a_broker_that_cannot_be_used(
    typed: Typed, command: tuple[str, ...], text: str
) -> None:
    with valkey() as running:
        running.command(*command)
        code, out, err = typed("check", REDIS_URL=running.url)
    assert code == 1
    assert f"broker: {text}" in out
    assert "a service that they name does not answer" in err


def test_check_of_a_broker_that_does_not_answer(typed: Typed) -> None:
    code, out, err = typed("check", REDIS_URL="redis://:pass-word@127.0.0.1:1")
    assert code == 1
    assert "broker: does not answer as needed: 127.0.0.1:1 cannot be reached: " in out
    assert "pass-word" not in out + err


def test_check_names_the_file_of_a_secret(typed: Typed, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("x" * 64 + "\n")
    code, out, _ = typed("check", JWT_SECRET_KEY="", JWT_SECRET_KEY_FILE=str(file))
    assert code == 0
    assert f"JWT_SECRET_KEY = set, 64 bytes (file '{file}')" in out.replace("\n", "")
    assert "x" * 64 not in out
