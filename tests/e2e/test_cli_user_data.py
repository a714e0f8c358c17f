"""The commands `user export` and `user delete`, with a real database and a real server."""

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from stores.file_samples import a_file, answering, naming
from stores.samples import ALICE, BOB, NOW, OTHER, answer_to, asked_by, end_of, new, record
from support.commands import Typed
from support.server import serving, write_agents

from netra_trio.cli import user_data
from netra_trio.cli.user import open_users
from netra_trio.config.settings import Settings
from netra_trio.errors import StoreUnavailable
from netra_trio.files.folder import FolderStorage
from netra_trio.ids import UserId, new_usage_id
from netra_trio.protocol.messages import QuestionOutcome
from netra_trio.protocol.threads import Rating
from netra_trio.stores.files import StoredFile
from netra_trio.stores.sql import personal_data
from netra_trio.stores.usage import Usage

AGENTS = """
import trio


async def sleep(run):
    await run.emit("I sleep. ")
    await trio.sleep(1000)
"""


@pytest.fixture
def written(typed: Typed, url: str) -> None:
    """Store two threads of Alice, with all kinds of data, and one of Bob."""
    typed("user", "add", "alice", DATABASE_URL=url)

    async def write() -> None:
        async with open_users(Settings(database_url=url)) as store, store.open():
            first = new("first \x00 words", key="k-1")
            await record(store, first)
            question = asked_by(first)
            await store.record_question(question)
            await store.end_question(answer_to(question))
            end = end_of(first, "good answer", steps=[{"type": "thought", "at": 0}])
            await store.end_run(end)
            await store.set_feedback(ALICE, end.message_id, Rating.UP, "so good")
            edited = new("second words", key="k-2", replaces=first.message_id, at=NOW + 9)
            await record(store, edited)
            await store.end_run(end_of(edited, "short", truncated=True))
            open_one = new("third", key="k-3", thread=OTHER)
            await record(store, open_one)
            await store.record_question(asked_by(open_one))
            await record(store, new("of Bob", key="k-4", user=BOB))
            for user, cost in ((ALICE, 0.5), (ALICE, None), (BOB, None)):
                usage = Usage(new_usage_id(), first.run_id, user, "echo", "qwen3", 12, 7, cost, NOW)
                await store.record_usage(usage)

    trio.run(write)


def rows(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


@pytest.mark.usefixtures("written")
@pytest.mark.parametrize("page", [1, 2, 100])
def test_everything_of_a_user_is_exported(
    typed: Typed, url: str, monkeypatch: pytest.MonkeyPatch, page: int
) -> None:
    monkeypatch.setattr(personal_data, "PAGE", page)
    code, out, err = typed("user", "export", "--user", "alice", "--json", DATABASE_URL=url)
    assert (code, err) == (0, "")
    found = rows(out)
    assert [(row["type"], row.get("content") or row.get("prompt")) for row in found] == [
        ("user", None),
        ("thread", None),
        ("message", "first \x00 words"),
        ("question", "Allow\x00 it, é?"),
        ("message", "good answer"),
        ("message", "second words"),
        ("message", "short"),
        ("thread", None),
        ("message", "third"),
        ("question", "Allow\x00 it, é?"),
        ("usage", None),
        ("usage", None),
    ]
    user, thread, asked, question, answered, edited, shortened, *_ = found
    assert (user["user_id"], user["enabled"]) == ("alice", True)
    assert thread["thread_id"] == asked["thread_id"] == question["thread_id"] == "main"
    assert asked["replaced"] is answered["replaced"] is True
    assert "replaced" not in edited
    assert shortened["truncated"] is True
    assert answered["feedback"] == {"rating": "up", "comment": "so good"}
    assert answered["steps"] == [{"type": "thought", "at": 0}]
    assert answered["run"]["agent_name"] == "echo"
    assert (question["outcome"], question["answer"]) == (QuestionOutcome.ANSWERED, "yes")
    assert (question["tool_name"], question["answered_by"]) == ("delete", "alice")
    assert "outcome" not in found[9]
    assert sorted(row.get("cost", 0) for row in found[10:]) == [0, 0.5]
    assert "Bob" not in out


@pytest.mark.usefixtures("written")
def test_an_export_for_people_is_markdown(typed: Typed, url: str) -> None:
    code, out, err = typed("user", "export", "alice", DATABASE_URL=url)
    assert (code, err) == (0, "")
    for text in (
        "# alice\n",
        "### user (2022-01-01 00:00 UTC, replaced)\n\nfirst ",
        "### echo (2022-01-01 00:00 UTC, replaced, rated up: so good)\n\ngood answer\n",
        "### approval: answered\n",
        "### approval: open\n",
        "2022-01-01 00:00 UTC qwen3: 12 + 7 tokens\n",
    ):
        assert text in out


@pytest.mark.usefixtures("written")
def test_an_export_does_not_control_the_terminal(
    typed: Typed, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hostile = "one \x1b]0;title\x07\x9b2J two\n\tthree"

    async def write() -> None:
        async with open_users(Settings(database_url=url)) as store, store.open():
            await record(store, new(hostile, key="k-9"))

    trio.run(write)
    assert hostile in typed("user", "export", "alice", DATABASE_URL=url)[1]
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    _, out, _ = typed("user", "export", "alice", DATABASE_URL=url)
    assert "one ]0;title2J two\n\tthree\n" in out
    assert not {"\x1b", "\x07", "\x9b", "\x00"} & set(out)


@pytest.mark.usefixtures("written")
def test_a_deleted_user_leaves_nothing(typed: Typed, url: str) -> None:
    command = partial(typed, DATABASE_URL=url)
    code, out, err = command("user", "delete", "alice", "--json")
    assert (code, err) == (0, "")
    assert rows(out) == [{"user_id": "alice", "threads": 2, "files": 0, "usage": 2}]
    for name in ("export", "delete"):
        assert command("user", name, "alice") == (
            1,
            "",
            "there is no user 'alice'; list them with: netra-trio user list\n",
        )
    assert command("user", "list") == (0, "", "")
    # Bob has no row in the table of users, as an anonymous user.
    code, out, _ = command("user", "export", "bob", "--json")
    assert [row["type"] for row in rows(out)] == ["thread", "message", "usage"]
    assert (
        command("user", "delete", "bob")[1]
        == "bob: deleted (threads: 1, files: 0, reports of usage: 1)\n"
    )


async def test_a_user_at_work_is_deleted(tmp_path: Path, typed: Typed) -> None:
    """The run is stopped, the connection is closed, and nothing is stored afterwards."""
    url = f"sqlite:///{tmp_path / 'netra.db'}"
    write_agents(tmp_path, AGENTS)
    with serving(tmp_path, "--agent", "outside_agents:sleep", DATABASE_URL=url) as server:
        async with server.connect("alice") as client:
            await client.say("go", "k-1", thread_id="t-1")
            await client.until("partial_result")
            delete = partial(typed, "user", "delete", "alice", DATABASE_URL=url)
            code, out, err = await trio.to_thread.run_sync(delete)
            assert (code, err) == (0, "")
            assert out == "alice: deleted (threads: 1, files: 0, reports of usage: 0)\n"
            frames, close_code = await client.rest()
            assert (close_code, frames[-1]["payload"]["code"]) == (4403, "USER_DISABLED")
    export = partial(typed, "user", "export", "alice", DATABASE_URL=url)
    assert (await trio.to_thread.run_sync(export))[0] == 1


@pytest.mark.usefixtures("written")
def test_a_run_that_does_not_end_is_not_waited_for(
    typed: Typed, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its node owns it and does not answer: the late end of the run is dropped."""
    monkeypatch.setattr(user_data, "STOP_SECONDS", 0.2)
    monkeypatch.setattr(user_data, "LOOK_SECONDS", 0.05)

    async def own() -> None:
        async with open_users(Settings(database_url=url)) as store, store.open():
            message = new("late", key="k-9", user=UserId("alice"))
            await record(store, message)
            delete = partial(typed, "user", "delete", "alice", "--json", DATABASE_URL=url)
            code, out, err = await trio.to_thread.run_sync(delete)
            assert (code, rows(out)[0]["threads"]) == (0, 2)
            assert err.endswith("may still store their usage; repeat the command later\n")
            await store.end_run(end_of(message))
            assert await store.history(UserId("alice"), message.thread_id, limit=9) is None

    trio.run(own)


@pytest.fixture
def stored(typed: Typed, url: str, tmp_path: Path) -> dict[StoredFile, Path]:
    """Store files with their content.

    A file of Bob; of Alice one that a message names, one that an answer names, one that nothing
    names, and one that is not finished.
    """
    typed("user", "add", "alice", DATABASE_URL=url)
    storage = FolderStorage(tmp_path / "files")
    made: dict[StoredFile, Path] = {}

    async def write() -> None:
        async with open_users(Settings(database_url=url)) as store, store.open(), storage.open():
            for each in range(5):
                file = a_file(7, user=ALICE if each else BOB, name=f"{each}.txt")
                assert await store.reserve_file(file, max_bytes=100)
                spooled = storage.spool_folder / "x"
                spooled.parent.mkdir(parents=True, exist_ok=True)
                spooled.write_bytes(b"content")
                await storage.put(file.file_id, spooled)
                if each < 4:
                    assert await store.finish_file(file.file_id)
                made[file] = Path(storage.location(file.file_id))
            _, named, answer, *_ = made
            message = naming(named)
            await record(store, message)
            await store.end_run(answering(message, answer))

    trio.run(write)
    return made


def test_an_export_says_where_files_are(
    stored: dict[StoredFile, Path], typed: Typed, url: str, tmp_path: Path
) -> None:
    export = partial(typed, "user", "export", DATABASE_URL=url, FILES_URL=str(tmp_path / "files"))
    code, out, err = export("alice", "--json")
    assert (code, err) == (0, "")
    found = rows(out)
    _, named, answer, *_ = stored
    attachments = [row.get("attachments") for row in found if row["type"] == "message"]
    assert attachments == [[named.file_id], [answer.file_id]]
    files = sorted((row for row in found if row["type"] == "file"), key=lambda row: row["name"])
    assert [(row["name"], row["bytes"]) for row in files] == [(f"{n}.txt", 7) for n in range(1, 5)]
    assert [row["file_id"] for row in files] == [file.file_id for file in stored][1:]
    assert [Path(row["location"]) for row in files] == list(stored.values())[1:]
    assert Path(files[0]["location"]).read_bytes() == b"content"
    _, out, _ = export("alice")
    assert f"file '1.txt', 7 bytes: {files[0]['location']}\n" in out


def test_a_deleted_user_leaves_no_content_of_files(
    stored: dict[StoredFile, Path], typed: Typed, url: str, tmp_path: Path
) -> None:
    delete = partial(typed, "user", "delete", DATABASE_URL=url, FILES_URL=str(tmp_path / "files"))
    of_bob, first, *_ = stored.values()
    first.unlink()
    first.mkdir()  # it cannot be deleted as a file
    code, _, err = delete("alice")
    assert code == 1
    assert err.startswith("FILES_URL: ")
    what = "content of files is left, and the user is disabled; repeat the command later\n"
    assert err.endswith(what)
    first.rmdir()
    code, out, err = delete("alice", "--json")
    assert (code, err) == (0, "")
    assert rows(out)[0]["files"] == 4
    assert [path.exists() for path in stored.values()] == [True, False, False, False, False]
    assert of_bob.read_bytes() == b"content"
    assert delete("alice")[0] == 1  # there is no such user


@pytest.mark.parametrize("command", ["export", "delete"])
def test_a_user_that_does_not_exist(typed: Typed, command: str) -> None:
    typed("user", "add", "alice")
    code, out, err = typed("user", command, "zoe")
    assert (code, out) == (1, "")
    assert err == "there is no user 'zoe'; list them with: netra-trio user list\n"
    assert "expected a printable user id" in typed("user", command, "")[2]
    assert "users in memory are lost" in typed("user", command, "zoe", DATABASE_URL="sqlite://")[2]


@pytest.mark.usefixtures("written")
@pytest.mark.parametrize("command", ["export", "delete"])
def test_a_database_that_stops_answering(
    typed: Typed, url: str, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise StoreUnavailable("it is gone")

    monkeypatch.setattr(user_data, "has_data", fail)
    code, out, err = typed("user", command, "alice", DATABASE_URL=url)
    assert (code, out) == (1, "")
    assert err == "the database does not answer: it is gone\n"
