"""Mutants: faults in one place of the source, which the tests have to detect.

>>> MUTANTS[0].name
'cursor off by one'

`nox -s mutants` applies them, one at a time (see `support.mutating`).
"""

from pathlib import Path

from attrs import frozen

ROOT = Path(__file__).parent.parent.parent


@frozen
class Mutant:
    """A fault.

    Attributes:
        name: The name of the fault.
        breaks: The property that it violates.
        file: The path of the file, from the root of the project.
        old: The text of the source; it occurs exactly once.
        new: The text with the fault.
        tests: The arguments of pytest for the tests that have to fail.
    """

    name: str
    breaks: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    def apply(self, root: Path) -> None:
        """Apply the fault to the project at `root`.

        Raises:
            ValueError: If the old text does not occur exactly once.
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
        "acknowledged events are removed from the log, and are not replayed",
        "netra_trio/sessions/event_log.py",
        "while kept and kept[0].seq <= seq:",
        "while kept and kept[0].seq < seq:",
        _LOG,
    ),
    Mutant(
        "replay twice",
        "after an exact resume each event is sent once",
        "netra_trio/sessions/event_log.py",
        "        self._kept.clear()\n",
        "",
        (*_RESUME, "-k", "twice"),
    ),
    Mutant(
        "log full one too late",
        "the log has no more events than its bound",
        "netra_trio/sessions/event_log.py",
        "if self._unreserved_count >= self._max_events:",
        "if self._unreserved_count > self._max_events:",
        _LOG,
    ),
    Mutant(
        "merge across runs",
        "the text of a run contains no text of another run",
        "netra_trio/sessions/event_log.py",
        "            or last.event.run_id != event.run_id\n",
        "",
        _LOG,
    ),
    Mutant(
        "forget the reserved places",
        "a refused message releases its two places",
        "netra_trio/sessions/admission.py",
        "            self._runner.forget(live)\n            self._events.release()\n",
        "            self._runner.forget(live)\n",
        ("tests/sessions/test_confirmations.py", "tests/sessions/test_busy.py"),
    ),
    Mutant(
        "confirm a message that is not recorded",
        "a confirmed message is stored",
        "netra_trio/sessions/admission.py",
        "known = await self._ask(self._store.record, live.message)",
        "known = await self._ask(self._store.find, live.message)",
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
        "events after the end",
        "the end is the last event of a run",
        "netra_trio/sessions/runner.py",
        "        execution.output.close()\n",
        "",
        (*_RESUME, "-k", "abandoned"),
    ),
    Mutant(
        "exact in spite of a gap",
        "missing events are reported as a gap",
        "netra_trio/sessions/event_stream.py",
        "Verdict.EXACT if rewound.is_exact else Verdict.GAP",
        "Verdict.EXACT",
        (*_RESUME, "-k", "gap"),
    ),
    Mutant(
        "a session that never expires",
        "when the resume window has passed, the session and its runs end",
        "netra_trio/node/registry.py",
        "self.close(self._all[session_id], WINDOW_PASSED)",
        "del self._detached[session_id]",
        (*_RESUME, "-k", "window"),
    ),
    Mutant(
        "session of another user",
        "the session of another user is unknown",
        "netra_trio/node/registry.py",
        "return user_id == identity.user_id or (",
        "return bool(user_id) or (",
        (*_RESUME, "-k", "unknown"),
    ),
    Mutant(
        "takeover leaves the old connection open",
        "the older of two connections of a session is closed with 4409",
        "netra_trio/node/node.py",
        "        elif (replaced := self._newest.get(session.id)) is not None:\n",
        "        elif (replaced := self._newest.get(session.id)) is not None and not session.id:\n",
        (*_RESUME, "-k", "newest"),
    ),
    Mutant(
        "acknowledge events that were not read",
        "a slow reader slows the agent, and unread events stay in the log of the server",
        "netra_trio/client/sequence.py",
        "return self.last_seq if held_from is None else min(self.last_seq, held_from - 1)",
        "return self.last_seq",
        _CLIENT,
    ),
    Mutant(
        "a false gap",
        "an event that is received twice is ignored",
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
        "a client whose session was taken over does not reconnect automatically",
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
"""All mutants, in the order in which they are applied."""
