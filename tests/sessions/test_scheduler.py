"""The scheduler: one run in each thread, a limited number in all, in order, none forgotten."""

from math import inf

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from netra_trio.sessions.scheduler import AdmissionDecision, Scheduler

THREADS = st.sampled_from("abcd")
DELAYS = st.sampled_from([0.0, 0.0, 0.0, 1.0, 5.0, 60.0])


class ScheduleMachine(RuleBasedStateMachine):
    """Calls the scheduler as a session does; the model is a list of waiting and of active runs."""

    @initialize(max_active=st.integers(1, 4), max_waiting=st.integers(0, 6))
    def start(self, max_active: int, max_waiting: int) -> None:
        self.max_active, self.max_waiting = max_active, max_waiting
        self.schedule = Scheduler(max_active=max_active, max_waiting=max_waiting)
        self.now = 0.0
        self.count = 0
        self.waiting: list[str] = []
        self.thread: dict[str, str] = {}
        self.slot: dict[str, float] = {}
        self.active: list[str] = []
        self.done: set[str] = set()

    def start_due(self) -> list[str]:
        started = self.schedule.start_due(self.now)
        order = [run for run in self.waiting if run in started]
        assert started == order
        for run in started:
            assert self.slot[run] <= self.now
            self.waiting.remove(run)
            ahead = self.waiting_in(self.thread[run], of=order)
            assert run in ahead[:1], "the runs of a thread start in order"
            self.active.append(run)
        if len(self.active) < self.max_active:
            for run in self.waiting:
                first = self.waiting_in(self.thread[run])[0] == run
                free = all(self.thread[other] != self.thread[run] for other in self.active)
                assert not (first and free and self.slot[run] <= self.now), "nothing due is left"
        return started

    def waiting_in(self, thread: str, of: list[str] | None = None) -> list[str]:
        return [
            run
            for run in (self.waiting if of is None else [*of, *self.waiting])
            if self.thread[run] == thread
        ]

    @rule(
        thread=THREADS,
        delay=DELAYS,
        reject=st.booleans(),
        first=st.booleans(),
        starts=st.sampled_from([True, True, True, False]),
    )
    def offer(self, thread: str, delay: float, reject: bool, first: bool, starts: bool) -> None:
        busy = any(self.thread[run] == thread for run in [*self.active, *self.waiting])
        assert self.schedule.is_busy(thread) is busy
        slot = self.now + delay
        decide = self.schedule.decide(thread, starts_at=slot, now=self.now, reject_if_busy=reject)
        assert (decide is AdmissionDecision.BUSY) is (busy and reject)
        if decide is AdmissionDecision.FULL:
            assert len(self.waiting) >= self.max_waiting
        if decide in {AdmissionDecision.BUSY, AdmissionDecision.FULL}:
            return
        self.count += 1
        run = f"r{self.count}"
        self.schedule.add(run, thread, starts_at=slot, first=first)
        self.waiting.insert(0 if first else len(self.waiting), run)
        self.thread[run], self.slot[run] = thread, slot
        if not starts:
            return
        started = self.start_due()
        # A run that is added as `first` may start before the runs that `decide` counted.
        assert decide is not AdmissionDecision.START or run in started
        assert first or decide is not AdmissionDecision.WAIT or run not in started
        if run in self.waiting:
            assert len(self.waiting) <= max(self.max_waiting, 1)
        for place, waiting in enumerate(self.waiting, start=1):
            position = self.schedule.position(waiting, self.now)
            assert position is not None
            in_thread = self.waiting_in(self.thread[waiting]).index(waiting) + 1
            assert in_thread <= position <= place

    @rule()
    def start_due_again(self) -> None:
        self.start_due()

    @rule(step=st.sampled_from([0.5, 1.0, 30.0]))
    def let_time_pass(self, step: float) -> None:
        following = self.schedule.next_start(self.now)
        assert following == min(
            (self.slot[run] for run in self.waiting if self.slot[run] > self.now), default=inf
        )
        self.now = min(self.now + step, following)
        self.start_due()

    @precondition(lambda self: self.active)
    @rule(data=st.data())
    def end_one(self, data: st.DataObject) -> None:
        self.end(data.draw(st.sampled_from(self.active)))
        self.start_due()

    @rule(data=st.data())
    def stop_one(self, data: st.DataObject) -> None:
        run = data.draw(st.sampled_from([*self.waiting, *self.active, "nobody"]))
        assert self.schedule.withdraw(run) is (run in self.waiting)
        if run in self.waiting:
            self.waiting.remove(run)
            self.done.add(run)

    def end(self, run: str) -> None:
        self.schedule.ended(run)
        self.active.remove(run)
        self.done.add(run)

    @invariant()
    def active_runs_are_within_the_limits(self) -> None:
        assert len(self.active) <= self.max_active
        threads = [self.thread[run] for run in self.active]
        assert len(set(threads)) == len(threads)
        for run in self.active:
            assert run in self.schedule.active
            assert self.schedule.position(run, self.now) is None

    @invariant()
    def counts(self) -> None:
        assert self.schedule.statistics() == {
            "active": len(self.active),
            "waiting": len(self.waiting),
        }

    def teardown(self) -> None:
        """Check that every waiting run starts, when runs end and time passes."""
        if not hasattr(self, "schedule"):
            return
        for _ in range(2 * self.count + 1):
            for run in list(self.active):
                self.end(run)
            if not self.start_due():
                following = self.schedule.next_start(self.now)
                if following == inf:
                    break
                self.now = following
                self.start_due()
        assert not self.waiting
        assert not self.active
        assert len(self.done) == self.count


TestSchedule = ScheduleMachine.TestCase


def test_eight_runs_start_and_the_ninth_waits() -> None:
    schedule = Scheduler(max_active=8, max_waiting=32)
    for n in range(9):
        decide = schedule.decide(f"t{n}", starts_at=0.0, now=0.0, reject_if_busy=True)
        assert decide is (AdmissionDecision.START if n < 8 else AdmissionDecision.WAIT)
        schedule.add(f"r{n}", f"t{n}", starts_at=0.0)
        assert schedule.start_due(0.0) == ([f"r{n}"] if n < 8 else [])
    schedule.ended("r3")
    # The place is for the ninth run, which waits longest.
    assert (
        schedule.decide("new", starts_at=0.0, now=0.0, reject_if_busy=False)
        is AdmissionDecision.WAIT
    )
    assert schedule.start_due(0.0) == ["r8"]


def test_thirty_two_runs_wait_and_the_next_is_refused() -> None:
    schedule = Scheduler(max_active=8, max_waiting=32)
    for n in range(33):
        assert schedule.decide("t", starts_at=0.0, now=0.0, reject_if_busy=False) in {
            AdmissionDecision.START,
            AdmissionDecision.WAIT,
        }
        schedule.add(f"r{n}", "t", starts_at=0.0)
        schedule.start_due(0.0)
    assert (
        schedule.decide("t", starts_at=0.0, now=0.0, reject_if_busy=False) is AdmissionDecision.FULL
    )
    assert (
        schedule.decide("t", starts_at=0.0, now=0.0, reject_if_busy=True) is AdmissionDecision.BUSY
    )
    assert (
        schedule.decide("other", starts_at=0.0, now=0.0, reject_if_busy=False)
        is AdmissionDecision.START
    )
    assert (
        schedule.decide("other", starts_at=1.0, now=0.0, reject_if_busy=False)
        is AdmissionDecision.FULL
    )
    assert schedule.position("r32", 0.0) == 32


def test_an_interrupting_run_starts_next() -> None:
    schedule = Scheduler(max_active=2, max_waiting=32)
    for run in ("r1", "r2", "r3"):
        schedule.add(run, "t", starts_at=0.0)
    assert schedule.start_due(0.0) == ["r1"]
    schedule.add("now", "t", starts_at=0.0, first=True)
    assert schedule.position("now", 0.0) == 1
    assert schedule.position("r2", 0.0) == 2
    assert schedule.start_due(0.0) == []
    schedule.ended("r1")
    assert schedule.start_due(0.0) == ["now"]


def test_a_run_that_is_not_due_delays_only_its_thread() -> None:
    schedule = Scheduler(max_active=2, max_waiting=32)
    schedule.add("late", "t", starts_at=60.0)
    schedule.add("behind", "t", starts_at=0.0)
    schedule.add("other", "u", starts_at=0.0)
    schedule.add("later", "v", starts_at=61.0)
    assert schedule.position("later", 0.0) == 2
    assert schedule.next_start(0.0) == 60.0
    assert schedule.start_due(0.0) == ["other"]
    assert schedule.start_due(60.0) == ["late"]
    assert schedule.next_start(60.0) == 61.0


def test_withdraw_all_returns_the_waiting_runs_in_order() -> None:
    schedule = Scheduler(max_active=1, max_waiting=32)
    for run in ("r1", "r2", "r3"):
        schedule.add(run, "t", starts_at=0.0)
    schedule.start_due(0.0)
    assert schedule.withdraw_all() == ["r2", "r3"]
    assert schedule.withdraw_all() == []
    assert schedule.active == ["r1"]
    schedule.ended("r1")
    schedule.ended("r1")  # as for an abandoned run, when its tasks have ended
    assert schedule.active == []
