"""The key of the model's server: where it comes from, and that it is never shown."""

from pathlib import Path

import pytest

from netra_trio.errors import SettingsError
from netra_trio.models import chat
from netra_trio.models.key import Key, key_from

SECRET = "sk-very-secret"


def headers(key: Key | None) -> dict[str, str]:
    assert key is not None
    return key.headers


@pytest.mark.parametrize("environ", [{}, {"OPENAI_API_KEY": " "}, {"OPENAI_API_KEY_FILE": ""}])
def test_no_key(environ: dict[str, str]) -> None:
    assert key_from(environ) is None


def test_from_the_environment() -> None:
    assert headers(key_from({"OPENAI_API_KEY": f" {SECRET}\n"})) == {
        "authorization": f"Bearer {SECRET}"
    }


def test_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "key").write_text(f"{SECRET}\n")
    expected = {"authorization": f"Bearer {SECRET}"}
    assert headers(key_from({"OPENAI_API_KEY_FILE": "key"}, tmp_path)) == expected
    monkeypatch.chdir(tmp_path)
    assert headers(key_from({"OPENAI_API_KEY_FILE": "key"})) == expected


def test_a_file_beside_the_variable() -> None:
    with pytest.raises(SettingsError, match="unset OPENAI_API_KEY or OPENAI_API_KEY_FILE"):
        key_from({"OPENAI_API_KEY": SECRET, "OPENAI_API_KEY_FILE": "key"})


def test_a_file_that_does_not_exist_is_not_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read") as caught:
        key_from({"OPENAI_API_KEY_FILE": SECRET}, tmp_path)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("text", [f"{SECRET}\n", f" {SECRET}", "sk-é", "sk\x00", "sk\r\nx: y"])
def test_a_key_that_no_header_can_have(text: str) -> None:
    with pytest.raises(SettingsError, match="copy the key again") as caught:
        Key(text)
    assert SECRET not in str(caught.value)


def test_nothing_shows_it() -> None:
    key = Key(SECRET)
    assert SECRET not in f"{key} {key!r}"
    assert key.hide(f"wrong key {SECRET}!") == "wrong key [key]!"
    agent = chat("m", api_key=SECRET)
    assert SECRET not in f"{agent!r} {agent}"
    assert repr(agent) == "<Chat 'm' at https://api.openai.com/v1>"


def test_a_placeholder_is_not_hidden() -> None:
    assert Key("x").hide("exit") == "exit"
    assert Key("x" * 8).hide("x" * 8) == "[key]"
    assert Key("x" * 7).hide("x" * 7) == "x" * 7
