"""The measurement of appends works, and leaves nothing behind."""

import pytest
from support.valkey import Server

from bench import broker


async def test_each_kind_of_work_appends_to_logs(valkey_server: Server, valkey_url: str) -> None:
    appends = 2 * broker.SESSIONS
    figures = await broker.measure(valkey_url, appends)
    assert list(figures) == list(broker.WORK)
    assert all(figure > 0 for figure in figures.values())
    entries = valkey_server.command("INFO", "COMMANDSTATS").decode()
    calls = int(entries.partition("cmdstat_evalsha:calls=")[2].partition(",")[0])
    assert calls >= 3 * appends
    assert valkey_server.command("KEYS", "nt:{*") == []


def test_the_table(
    valkey_url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker, "configure", lambda **_: None)
    broker.main(["--url", valkey_url, "--appends", "50"])
    rows = capsys.readouterr().out.splitlines()
    assert [row for row in rows if "50 in one call" in row]
    broker.main(["--appends", "50"])
    assert [row for row in capsys.readouterr().out.splitlines() if "50 tasks at once" in row]
