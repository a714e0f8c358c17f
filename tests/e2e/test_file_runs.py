"""Files from an upload to their deletion, over real servers: one process, and two nodes."""

import hashlib
from contextlib import ExitStack
from pathlib import Path

import pytest
import trio
from support.commands import Typed
from support.server import PATIENCE, Server, serving, sign, write_agents

from netra_trio.client import Client, MessageRefused, connect

pytestmark = pytest.mark.unmeasured

AGENT = '''
import hashlib

async def digest(run):
    """Answer with the digests of the files, and with files."""
    for file in run.attachments:
        found = hashlib.sha256()
        async for chunk in file:
            found.update(chunk)
        await run.emit(f"{file.name} {found.hexdigest()}.")
    await run.emit_bytes(b"sound", media_type="audio/mpeg")
    await run.attach("answer.txt", b"the answer")
'''
OPTIONS = ("--agent", "outside_agents:digest")
LARGE = bytes(range(256)) * 20_000  # five megabytes


async def content_of(client: Client, file_id: str) -> bytes:
    async with client.download(file_id) as download:
        return b"".join([chunk async for chunk in download])


async def tell(first: Server, second: Server) -> None:
    """Upload at one server, send the message at the other one, and so on."""
    with trio.fail_after(PATIENCE):
        async with (
            connect(first.url, token=sign("alice")) as here,
            connect(second.url, token=sign("alice")) as there,
            connect(second.url, token=sign("bob")) as other,
        ):
            file = await here.upload(LARGE, name="large.bin")
            assert file.sha256 == hashlib.sha256(LARGE).hexdigest()
            with pytest.raises(MessageRefused, match="FILE_NOT_FOUND"):
                await other.send("look", attachments=[file.file_id])
            run = await there.send("look", attachments=[file.file_id], thread_id="t")
            assert await run.text() == f"large.bin {file.sha256}."
            assert run.end is not None
            sound, answer = run.end.payload["attachments"]
            assert await content_of(here, sound) == b"sound"
            assert await content_of(here, answer) == b"the answer"
            with pytest.raises(MessageRefused, match="FILE_NOT_FOUND"):
                await content_of(other, answer)
            asked, answered = (await here.history("t"))["messages"]
            assert asked["attachments"] == [file.file_id]
            assert answered["files"] == run.end.payload["files"]
            names = [(each["name"], each["media_type"]) for each in answered["files"]]
            assert names == [("", "audio/mpeg"), ("answer.txt", "text/plain")]
            await here.threads().delete("t")
            for file_id in (file.file_id, sound, answer):
                with pytest.raises(MessageRefused, match="FILE_NOT_FOUND"):
                    await content_of(there, file_id)
            with pytest.raises(MessageRefused, match="FILE_NOT_FOUND"):
                await there.send("again", attachments=[file.file_id])


def test_one_process_and_the_chat_of_the_terminal(tmp_path: Path, typed: Typed) -> None:
    (tmp_path / "server").mkdir()
    write_agents(tmp_path / "server", AGENT)
    plan = tmp_path / "plan.txt"
    plan.write_bytes(b"a plan")
    with serving(tmp_path / "server", *OPTIONS) as server:
        trio.run(tell, server, server)
        chat = ("chat", "look", "--url", server.url, "--user", "carol")
        files = ("--attach", str(plan), "--attach", str(plan), "--save-files", "saved")
        digest = hashlib.sha256(b"a plan").hexdigest()
        for number in ("", " (2)"):
            code, out, err = typed(*chat, *files)
            assert (code, err) == (0, "")
            lines = out.splitlines()
            assert lines[:2] == ["[attached] plan.txt (text/plain, 6 bytes)"] * 2
            assert lines[2] == f"plan.txt {digest}." * 2
            assert lines[3].startswith("[file] file_")
            saved = f"saved/answer{number}.txt"
            about = "[file] answer.txt (text/plain, 10 bytes)"
            assert lines[4:] == [f"{about}: saved as {saved}"]
            assert (tmp_path / saved).read_bytes() == b"the answer"
        code, out, _ = typed(*chat)
        assert out.splitlines()[-1] == f"{about}; --save-files DIR saves it"
        code, out, err = typed(*chat, "--attach", "nowhere.txt")
        assert code == 1
        assert "cannot read nowhere.txt: No such file or directory" in err


def test_two_nodes(tmp_path: Path, database_url: str, valkey_url: str) -> None:
    write_agents(tmp_path, AGENT)
    environ = {
        "DATABASE_URL": database_url,
        "REDIS_URL": valkey_url,
        "FILES_URL": str(tmp_path / "shared"),
    }
    with ExitStack() as stack:
        first, second = (
            stack.enter_context(serving(tmp_path, *OPTIONS, **environ)) for _ in range(2)
        )
        trio.run(tell, first, second)
