"""Faults that somebody could make, each in one place of the source: the tests have to see all.

>>> MUTANTS[0].name
'cursor off by one'

`nox -s mutants` puts them in, one at a time (see `support.mutating`).
"""

from pathlib import Path

from attrs import frozen

ROOT = Path(__file__).parent.parent.parent


@frozen
class Mutant:
    """A fault.

    Attributes:
        name: What is wrong.
        breaks: The promise that it breaks.
        file: Where, from the root of the project.
        old: The text as it is, which is there exactly once.
        new: The text with the fault.
        tests: What has to see it: arguments of pytest.
    """

    name: str
    breaks: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    def apply(self, root: Path) -> None:
        """Put the fault into the project at `root`.

        Raises:
            ValueError: The old text is not there, or more than once.
        """
        path = root / self.file
        source = path.read_text(encoding="utf-8")
        count = source.count(self.old)
        if count != 1:
            raise ValueError(f"{self.name}: the old text is {count} times in {self.file}")
        path.write_text(source.replace(self.old, self.new), encoding="utf-8")


_LOG = ("tests/sessions/test_event_log.py", "tests/sessions/test_resume.py")
_RESUME = ("tests/sessions/test_resume.py",)
_CLIENT = ("tests/client/test_client_messages.py", "tests/client/test_client_rules.py")

MUTANTS = (
    Mutant(
        "cursor off by one",
        "what was acknowledged leaves the log, and is not replayed",
        "netra_trio/sessions/event_log.py",
        "while kept and kept[0].seq <= seq:",
        "while kept and kept[0].seq < seq:",
        _LOG,
    ),
    Mutant(
        "replay twice",
        "exact: each event follows once",
        "netra_trio/sessions/event_log.py",
        "        self._kept.clear()\n",
        "",
        (*_RESUME, "-k", "twice"),
    ),
    Mutant(
        "log full one too late",
        "the log holds no more than its bound",
        "netra_trio/sessions/event_log.py",
        "if self._ordinary >= self._max_events:",
        "if self._ordinary > self._max_events:",
        _LOG,
    ),
    Mutant(
        "merge across runs",
        "a run's text is its own, to the byte",
        "netra_trio/sessions/event_log.py",
        "            or last.event.run_id != event.run_id\n",
        "",
        _LOG,
    ),
    Mutant(
        "forget the reserved places",
        "a refused message gives its two places back",
        "netra_trio/sessions/admission.py",
        "            self._runner.forget(live)\n            self._events.release()\n",
        "            self._runner.forget(live)\n",
        ("tests/sessions/test_confirmations.py", "tests/sessions/test_busy.py"),
    ),
    Mutant(
        "confirm what is not recorded",
        "what is confirmed is stored",
        "netra_trio/sessions/admission.py",
        "known = await self._ask(self._store.record, record)",
        "known = await self._ask(self._store.find, record)",
        ("tests/sessions/test_confirmations.py",),
    ),
    Mutant(
        "end twice",
        "a run has exactly one end",
        "netra_trio/sessions/runner.py",
        "        if execution.has_ended:\n"
        "            self._scheduler.ended(message.run_id)\n"
        "            return\n",
        "",
        (*_RESUME, "-k", "abandoned"),
    ),
    Mutant(
        "events behind the end",
        "nothing of a run comes after its end",
        "netra_trio/sessions/runner.py",
        "        execution.output.close()\n",
        "",
        (*_RESUME, "-k", "abandoned"),
    ),
    Mutant(
        "exact in spite of a gap",
        "a gap is told",
        "netra_trio/sessions/event_stream.py",
        "Verdict.EXACT if rewound.is_exact else Verdict.GAP",
        "Verdict.EXACT",
        (*_RESUME, "-k", "gap"),
    ),
    Mutant(
        "a session that never expires",
        "when the window passes, the runs end and the session is gone",
        "netra_trio/node/registry.py",
        'self.close(self._all[session_id], "window_passed")',
        "del self._detached[session_id]",
        (*_RESUME, "-k", "window"),
    ),
    Mutant(
        "anybody's session",
        "another user's session is as good as unknown",
        "netra_trio/node/registry.py",
        "if session is None or session.user.id == identity.user_id:",
        "if session is None or identity.user_id:",
        (*_RESUME, "-k", "unknown"),
    ),
    Mutant(
        "takeover leaves the old socket open",
        "two sockets on one session: the older one is closed with 4409",
        "netra_trio/node/node.py",
        "            replaced.end(EndReason.TAKEN_OVER)\n",
        "            pass\n",
        (*_RESUME, "-k", "newest"),
    ),
    Mutant(
        "acknowledge events that were not read",
        "a slow reader slows the agent, and nothing unread leaves the server's log",
        "netra_trio/client/sequence.py",
        "return self.last_seq if held_from is None else min(self.last_seq, held_from - 1)",
        "return self.last_seq",
        _CLIENT,
    ),
    Mutant(
        "a false gap",
        "an event that comes twice is ignored",
        "netra_trio/client/sequence.py",
        "        if last <= before:\n",
        "        if last < before:\n",
        _CLIENT,
    ),
    Mutant(
        "forget the message in flight",
        "an unconfirmed message is sent again on the next connection",
        "netra_trio/client/outbox.py",
        'sent again."""\n        self._in_flight = None\n',
        'sent again."""\n',
        _CLIENT,
    ),
    Mutant(
        "reconnect after every close",
        "a client whose session was taken over does not reconnect by itself",
        "netra_trio/client/retry.py",
        "return _AFTER_CLOSE.get(code, Next.STOP)",
        "return _AFTER_CLOSE.get(code, Next.RETRY)",
        ("tests/client/test_client_rules.py",),
    ),
    Mutant(
        "send before it is on the disk",
        "a client that is killed loses no message that was sent",
        "netra_trio/client/client.py",
        "                await trio.to_thread.run_sync(self._file.add, message)\n"
        "            reply = messages.post(message)\n",
        "                messages.post(message)\n"
        "                await trio.to_thread.run_sync(self._file.add, message)\n"
        "            reply = messages.post(message)\n",
        ("tests/client/test_client_outbox_file.py",),
    ),
    Mutant(
        "a message is settled in memory alone",
        "a message that was confirmed is not sent again by the next process",
        "netra_trio/client/messages.py",
        "            self._file.remove(message)\n",
        "            pass\n",
        ("tests/client/test_client_outbox_file.py",),
    ),
)
"""Every mutant, in the order in which they are put in."""
