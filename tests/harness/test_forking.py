"""A forked program is the same as one that was started: streams, settings, exit codes, signals."""

import os
import signal
import subprocess
from pathlib import Path

import pytest
from support.forking import Forked, can_be_forked
from support.server import Process, clean_environ, run, serving

PROGRAM = ["-m", "netra_trio"]
COUNTER = slice(-14, -8)  # of an id, before what is random in each process
FORKS = """
import os
from netra_trio.ids import new_run_id
child = os.fork()
if child:
    os.waitpid(child, 0)
print(new_run_id())
"""


def test_two_servers_have_settings_directories_and_ids_of_their_own(tmp_path: Path) -> None:
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
    with serving(folders[0], WEBSOCKET_NODE_ID="n1") as one, serving(folders[1]) as two:
        assert isinstance(one.process.popen, Forked)
        assert isinstance(two.process.popen, Forked)
        assert len({one.process.pid, two.process.pid, os.getpid()}) == 3
        for server, folder in zip((one, two), folders, strict=True):
            assert Path(f"/proc/{server.process.pid}/cwd").resolve() == folder
            given = [each.readlink() for each in Path(f"/proc/{server.process.pid}/fd").iterdir()]
            assert given.count(Path(os.devnull)) == 1  # its input
    assert one.process.popen.returncode == two.process.popen.returncode == 0


def test_a_signal_that_kills_is_the_exit_code(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        process = server.process
        assert process.popen.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            process.popen.wait(0)
        assert process.end(signal.SIGKILL) == -signal.SIGKILL
        assert process.popen.poll() == -signal.SIGKILL
        process.send_signal(signal.SIGKILL)  # of nothing: the id may be another process's by now


def test_a_fault_is_its_exit_code_and_its_error_output(tmp_path: Path) -> None:
    with Process([*PROGRAM, "no-such"], directory=tmp_path, environ={}) as process:
        assert process.wait() != 0
    assert "no-such" in process.err.text + process.out.text
    assert not process.running


def test_its_input_is_typed(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        chat = [*PROGRAM, "chat", "--url", server.url, "--token", str(server.token)]
        with Process(chat, directory=tmp_path, environ={}, typed=True) as process:
            process.type("grün")
            process.out.wait_for(lambda lines: True if "grün" in "".join(lines) else None)
            process.hang_up()
            assert process.wait() == 0


@pytest.mark.parametrize(
    ("arguments", "environ", "forked"),
    [
        ([*PROGRAM, "check"], {}, True),
        (["-c", "pass"], {}, False),
        (["-m", "hypercorn"], {}, False),
        ([*PROGRAM, "serve", "--reload"], {}, False),
        ([*PROGRAM, "check"], {"PYTHONIOENCODING": "ascii"}, False),
        ([*PROGRAM, "check"], {"LC_ALL": "C"}, False),
        ([*PROGRAM, "check"], {"LANG": "C"}, False),
        ([*PROGRAM, "chat", "\udcff"], {}, False),
        ([*PROGRAM, "chat", "x" * 100_000], {}, False),
    ],
)
def test_what_can_be_forked(
    tmp_path: Path, arguments: list[str], environ: dict[str, str], *, forked: bool
) -> None:
    assert can_be_forked(arguments, clean_environ(tmp_path, environ)) is forked


def test_ids_of_a_forked_process_are_different(tmp_path: Path) -> None:
    code, output, _ = run(["-c", FORKS], directory=tmp_path, environ={})
    ours, theirs = output.split()
    assert code == 0
    assert theirs[COUNTER] == ours[COUNTER]
    assert theirs[-8:] != ours[-8:]
