"""The scheduler: one run in each thread, a limited number in all, in order, none forgotten."""

from math import inf

from attrs import define, field
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from netra_trio.sessions.scheduler import AdmissionDecision, Scheduler
from netra_trio.sessions.thread_lines import ThreadLines

THREADS = st.sampled_from("abcd")
DELAYS = st.sampled_from([0.0, 0.0, 0.0, 1.0, 5.0, 60.0])
SESSIONS = st.sampled_from([0, 0, 1])


@define(eq=False)
class Session:
    """The owner of a schedule, and the model of it: the waiting and the active runs."""

    schedule: Scheduler
    waiting: list[str] = field(factory=list)
    active: list[str] = field(factory=list)
    wakes: int = 0

    def wake(self) -> None:
        self.wakes += 1

    def interrupt(self, run: str) -> None:
        """Cancel a run."""

    def decide(
        self, run: str, thread: str, *, starts_at: float = 0.0, reject: bool = False
    ) -> AdmissionDecision:
        """Enter a run, and return the decision; a refused run is removed again."""
        self.schedule.enter(run, thread, self)
        decision = self.schedule.decide(run, starts_at=starts_at, now=0.0, reject_if_busy=reject)
        self.schedule.ended(run)
        return decision

    def offer(self, run: str, thread: str, *, starts_at: float = 0.0, first: bool = False) -> None:
        self.schedule.enter(run, thread, self, first=first)
        self.schedule.add(run, starts_at=starts_at, first=first)


def new_session(
    lines: ThreadLines | None = None, *, max_active: int = 8, max_waiting: int = 32
) -> Session:
    lines = ThreadLines() if lines is None else lines
    return Session(Scheduler(lines, max_active=max_active, max_waiting=max_waiting))


class ScheduleMachine(RuleBasedStateMachine):
    """Calls the schedulers of two sessions of one user as the sessions do."""

    @initialize(max_active=st.integers(1, 4), max_waiting=st.integers(0, 6))
    def start(self, max_active: int, max_waiting: int) -> None:
        self.max_active, self.max_waiting = max_active, max_waiting
        self.threads = ThreadLines()
        self.sessions = [
            new_session(self.threads, max_active=max_active, max_waiting=max_waiting)
            for _ in range(2)
        ]
        self.now = 0.0
        self.count = 0
        self.lines: dict[str, list[str]] = {name: [] for name in "abcd"}  # without active runs
        self.thread: dict[str, str] = {}
        self.slot: dict[str, float] = {}
        self.entered: list[tuple[str, Session, bool]] = []  # being recorded
        self.done: set[str] = set()

    @property
    def active(self) -> list[str]:
        return [run for session in self.sessions for run in session.active]

    def start_due(self, session: Session) -> list[str]:
        session.wakes = 0
        started = session.schedule.start_due(self.now)
        assert started == [run for run in session.waiting if run in started]
        for run in started:
            assert self.slot[run] <= self.now
            session.waiting.remove(run)
            assert self.lines[self.thread[run]].pop(0) == run, "runs of a thread start in order"
            session.active.append(run)
        if len(session.active) < self.max_active:
            for run in session.waiting:
                free = all(self.thread[other] != self.thread[run] for other in self.active)
                first = self.lines[self.thread[run]][0] == run
                assert not (first and free and self.slot[run] <= self.now), "nothing due is left"
        return started

    def serve_wakes(self) -> None:
        for session in self.sessions:
            if session.wakes:
                self.start_due(session)

    @rule(
        number=SESSIONS,
        thread=THREADS,
        delay=DELAYS,
        on_busy=st.sampled_from(["enqueue", "reject", "interrupt"]),
        recorded=st.sampled_from([True, True, True, False]),
    )
    def offer(self, number: int, thread: str, delay: float, on_busy: str, recorded: bool) -> None:
        session = self.sessions[number]
        reject, first = on_busy == "reject", on_busy == "interrupt"
        if any(owner is session for _, owner, _ in self.entered):
            return  # a session admits one message at a time
        busy = bool(self.lines[thread]) or any(self.thread[run] == thread for run in self.active)
        assert self.threads.is_busy(thread) is busy
        slot = self.now + delay
        run = f"r{self.count + 1}"
        session.schedule.enter(run, thread, session, first=first)
        decide = session.schedule.decide(run, starts_at=slot, now=self.now, reject_if_busy=reject)
        assert (decide is AdmissionDecision.BUSY) is (busy and reject)
        if decide is AdmissionDecision.FULL:
            assert len(session.waiting) >= self.max_waiting
        if decide in {AdmissionDecision.BUSY, AdmissionDecision.FULL}:
            session.schedule.ended(run)
            self.serve_wakes()
            return
        self.count += 1
        line = self.lines[thread]
        line.insert(0 if first else len(line), run)
        self.thread[run], self.slot[run] = thread, slot
        self.entered.append((run, session, first))
        if recorded:
            started = self.schedule_recorded()
            assert decide is not AdmissionDecision.START or run in started

    @precondition(lambda self: self.entered)
    @rule()
    def record(self) -> None:
        self.schedule_recorded()

    def schedule_recorded(self) -> list[str]:
        run, session, first = self.entered.pop()
        if session.schedule.start_if_free(run, starts_at=self.slot[run], now=self.now):
            assert not session.waiting
            assert self.lines[self.thread[run]].pop(0) == run
            session.active.append(run)
            return [run]
        session.schedule.add(run, starts_at=self.slot[run], first=first)
        session.waiting.insert(0 if first else len(session.waiting), run)
        return self.start_due(session)

    @precondition(lambda self: self.entered)
    @rule()
    def refuse(self) -> None:
        run, session, _ = self.entered.pop()
        session.schedule.ended(run)
        self.lines[self.thread[run]].remove(run)
        self.done.add(run)
        self.serve_wakes()

    @rule(number=SESSIONS)
    def start_due_again(self, number: int) -> None:
        self.start_due(self.sessions[number])

    @rule(step=st.sampled_from([0.5, 1.0, 30.0]))
    def let_time_pass(self, step: float) -> None:
        following = inf
        for session in self.sessions:
            next_start = session.schedule.next_start(self.now)
            slots = [self.slot[run] for run in session.waiting if self.slot[run] > self.now]
            assert next_start == min(slots, default=inf)
            following = min(following, next_start)
        self.now = min(self.now + step, following)
        for session in self.sessions:
            self.start_due(session)

    @precondition(lambda self: self.active)
    @rule(data=st.data())
    def end_one(self, data: st.DataObject) -> None:
        self.end(data.draw(st.sampled_from(self.active)))

    @rule(data=st.data())
    def stop_one(self, data: st.DataObject) -> None:
        session = data.draw(st.sampled_from(self.sessions))
        run = data.draw(st.sampled_from([*session.waiting, *self.active, "nobody"]))
        assert session.schedule.withdraw(run) is (run in session.waiting)
        if run in session.waiting:
            self.forget_waiting(session, run)
            self.start_due(session)
            self.serve_wakes()

    @rule(number=SESSIONS)
    def close(self, number: int) -> None:
        session = self.sessions[number]
        assert session.schedule.withdraw_all() == session.waiting
        for run in list(session.waiting):
            self.forget_waiting(session, run)
        self.serve_wakes()

    def forget_waiting(self, session: Session, run: str) -> None:
        session.waiting.remove(run)
        self.lines[self.thread[run]].remove(run)
        self.done.add(run)

    def end(self, run: str) -> None:
        session = next(session for session in self.sessions if run in session.active)
        session.schedule.ended(run)
        session.active.remove(run)
        self.done.add(run)
        self.start_due(session)
        self.serve_wakes()

    @invariant()
    def active_runs_are_within_the_limits(self) -> None:
        threads = [self.thread[run] for run in self.active]
        assert len(set(threads)) == len(threads)
        for session in self.sessions:
            assert len(session.active) <= self.max_active
            assert session.schedule.active == session.active
            assert all(session.schedule.position(run) is None for run in session.active)

    @invariant()
    def positions_are_those_in_the_line(self) -> None:
        for session in self.sessions:
            for run in session.waiting:
                place = self.lines[self.thread[run]].index(run) + 1
                assert session.schedule.position(run) == place

    @invariant()
    def counts(self) -> None:
        for session in self.sessions:
            assert session.schedule.statistics() == {
                "active": len(session.active),
                "waiting": len(session.waiting),
            }

    def teardown(self) -> None:
        """Check that every waiting run starts, when runs end and time passes."""
        if not hasattr(self, "threads"):
            return
        while self.entered:
            self.record()
        for _ in range(2 * self.count + 1):
            for run in list(self.active):
                self.end(run)
            starts = [session.schedule.next_start(self.now) for session in self.sessions]
            if not self.active and min(starts) < inf:
                self.now = min(starts)
                for session in self.sessions:
                    self.start_due(session)
        assert not any(session.waiting or session.active for session in self.sessions)
        assert not any(self.threads.is_busy(thread) for thread in "abcd")
        assert len(self.done) == self.count


TestSchedule = ScheduleMachine.TestCase


def test_eight_runs_start_and_the_ninth_waits() -> None:
    session = new_session()
    schedule = session.schedule
    for n in range(9):
        decision = session.decide(f"r{n}", f"t{n}", reject=True)
        assert decision is (AdmissionDecision.START if n < 8 else AdmissionDecision.WAIT)
        session.offer(f"r{n}", f"t{n}")
        assert schedule.start_due(0.0) == ([f"r{n}"] if n < 8 else [])
    schedule.ended("r3")
    # The place is for the ninth run, which waits longest.
    assert session.decide("new", "new") is AdmissionDecision.WAIT
    assert schedule.start_due(0.0) == ["r8"]


def test_thirty_two_runs_wait_and_the_next_is_refused() -> None:
    session = new_session()
    schedule = session.schedule
    for n in range(33):
        assert session.decide(f"r{n}", "t") in {AdmissionDecision.START, AdmissionDecision.WAIT}
        session.offer(f"r{n}", "t")
        schedule.start_due(0.0)
    assert session.decide("beyond", "t") is AdmissionDecision.FULL
    assert session.decide("beyond", "t", reject=True) is AdmissionDecision.BUSY
    assert session.decide("beyond", "other") is AdmissionDecision.START
    assert session.decide("beyond", "other", starts_at=1.0) is AdmissionDecision.FULL
    assert schedule.position("r32") == 32


def test_the_limits_of_two_sessions_are_separate() -> None:
    lines = ThreadLines()
    one, two = (new_session(lines, max_active=1, max_waiting=1) for _ in range(2))
    for session, thread in ((one, "t"), (two, "u")):
        session.offer(f"{thread}1", thread)
        assert session.schedule.start_due(0.0) == [f"{thread}1"]
    one.offer("u2", "u")
    assert one.decide("beyond", "u") is AdmissionDecision.FULL
    assert two.decide("beyond", "u") is AdmissionDecision.WAIT
    one.wakes = two.wakes = 0
    two.offer("u3", "u")
    assert [one.schedule.position("u2"), two.schedule.position("u3")] == [1, 2]
    two.schedule.ended("u1")
    assert (one.wakes, two.wakes) == (1, 0)
    # The thread is free, but the session of its next run has no place; the other one waits.
    assert one.schedule.start_due(0.0) == []
    assert two.schedule.start_due(0.0) == []
    one.schedule.ended("t1")
    assert one.schedule.start_due(0.0) == ["u2"]


def test_an_interrupting_run_starts_next() -> None:
    session = new_session(max_active=2)
    schedule = session.schedule
    for run in ("r1", "r2", "r3"):
        session.offer(run, "t")
    assert schedule.start_due(0.0) == ["r1"]
    session.offer("now", "t", first=True)
    assert schedule.position("now") == 1
    assert schedule.position("r2") == 2
    assert [place.run for place in schedule.to_interrupt(0.0)] == ["now"]
    assert schedule.to_interrupt(0.0) == []
    assert schedule.start_due(0.0) == []
    schedule.ended("r1")
    assert schedule.start_due(0.0) == ["now"]


def test_a_run_that_is_not_due_delays_only_its_thread() -> None:
    lines = ThreadLines()
    session, another = new_session(lines, max_active=2), new_session(lines)
    schedule = session.schedule
    session.offer("late", "t", starts_at=60.0)
    session.offer("behind", "t")
    session.offer("other", "u")
    session.offer("later", "v", starts_at=61.0)
    another.offer("last", "t")
    assert schedule.position("later") == 1
    assert another.schedule.position("last") == 3
    assert schedule.next_start(0.0) == 60.0
    assert schedule.start_due(0.0) == ["other"]
    assert another.schedule.start_due(0.0) == []
    assert schedule.start_due(60.0) == ["late"]
    assert schedule.next_start(60.0) == 61.0


def test_withdraw_all_returns_the_waiting_runs_in_order() -> None:
    lines = ThreadLines()
    session, another = new_session(lines, max_active=1), new_session(lines)
    schedule = session.schedule
    for run in ("r1", "r2", "r3"):
        session.offer(run, "t")
    another.offer("r4", "t")
    schedule.start_due(0.0)
    assert schedule.withdraw_all() == ["r2", "r3"]
    assert schedule.withdraw_all() == []
    assert schedule.active == ["r1"]
    assert another.schedule.position("r4") == 1
    schedule.ended("r1")
    schedule.ended("r1")  # as for an abandoned run, when its tasks have ended
    assert schedule.active == []
    assert another.schedule.start_due(0.0) == ["r4"]


def test_a_run_whose_message_is_being_recorded_keeps_its_place() -> None:
    lines = ThreadLines()
    one, two = new_session(lines), new_session(lines)
    one.schedule.enter("r1", "t", one)
    two.offer("r2", "t")
    assert two.schedule.start_due(0.0) == []
    one.schedule.ended("r1")  # it was not recorded
    assert two.wakes == 1
    assert two.schedule.start_due(0.0) == ["r2"]


def test_a_session_is_woken_if_its_own_interrupting_message_is_not_recorded() -> None:
    session = new_session()
    session.offer("r1", "t")
    session.schedule.enter("r2", "t", session, first=True)
    assert session.schedule.start_due(0.0) == []
    session.schedule.ended("r2")
    assert session.wakes == 1
    assert session.schedule.start_due(0.0) == ["r1"]


def test_a_granted_run_starts_and_others_wait_for_the_grant() -> None:
    lines = ThreadLines()
    session = new_session(lines)
    schedule = session.schedule
    mine = schedule.enter("r1", "t", session)
    mine.is_granted, mine.position = False, 3
    other = schedule.enter("r2", "t", session)
    other.is_granted, other.position = False, 2
    for run in ("r1", "r2"):
        assert not schedule.start_if_free(run, starts_at=0.0, now=0.0)
        schedule.add(run, starts_at=0.0)
    assert schedule.position("r1") == 3
    assert schedule.start_due(0.0) == []
    other.is_granted = True  # the order of all nodes counts, not the one of this process
    assert schedule.start_due(0.0) == ["r2"]
    mine.is_granted = True
    assert schedule.start_due(0.0) == []
    schedule.ended("r2")
    assert schedule.start_due(0.0) == ["r1"]
