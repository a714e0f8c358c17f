"""The state of users: kept while it is needed, and removed after that."""

from typing import cast

from hypothesis import given
from hypothesis import strategies as st

from netra_trio.ids import RunId, UserId
from netra_trio.protocol.ratelimit import WINDOW
from netra_trio.sessions.users import LiveRun, User, UserConnection, Users

# Users counts them and calls nothing of them.
CONNECTION = cast("UserConnection", object())
RUN = cast("LiveRun", object())


def test_a_user_is_kept_while_its_rate_window_is_in_use() -> None:
    users = Users(rate=1, waiting=0)
    alice = users.get(UserId("alice"), 0.0)
    alice.window.take(0.0)
    for second in range(60):
        users.get(UserId(f"passer-by-{second}"), float(second))
    assert users.get(UserId("alice"), 59.0) is alice
    assert alice.window.take(59.0) is None
    for second in range(60, 70):
        users.get(UserId(f"passer-by-{second}"), float(second))
    assert users.get(UserId("alice"), 70.0) is not alice


def test_a_user_with_a_connection_or_a_run_is_kept() -> None:
    users = Users(rate=1, waiting=0)
    alice = users.get(UserId("alice"), 0.0)
    alice.connections.append(CONNECTION)
    assert not alice.is_idle(0.0)
    assert users.get(UserId("alice"), 1e6) is alice
    alice.runs[RunId("r")] = RUN
    alice.connections.clear()
    assert users.get(UserId("alice"), 2e6) is alice
    alice.runs.clear()
    assert alice.is_idle(2e6)


def test_two_users_share_no_state() -> None:
    users = Users(rate=1, waiting=0)
    alice, bob = (users.get(UserId(name), 0.0) for name in ("alice", "bob"))
    alice.window.take(0.0)
    alice.connections.append(CONNECTION)
    alice.runs[RunId("r")] = RUN
    assert bob.window.take(0.0) == 0.0
    assert not bob.connections
    assert not bob.runs


def test_idle_users_are_removed() -> None:
    users = Users(rate=60, waiting=20)
    for number in range(10_000):
        users.get(UserId(f"user-{number}"), 0.0)
        assert len(users) <= 2


def test_memory_is_bounded_by_the_users_of_the_last_minute() -> None:
    users = Users(rate=60, waiting=20)
    for tenth in range(20_000):  # ten users a second, with one message each
        now = tenth / 10
        users.get(UserId(f"user-{tenth}"), now).window.take(now)
        assert len(users) <= 2 * 10 * WINDOW + 2


def test_idle_users_are_removed_beside_users_that_stay() -> None:
    users = Users(rate=60, waiting=20)
    staying = [users.get(UserId(f"stays-{number}"), 0.0) for number in range(100)]
    for user in staying:
        user.connections.append(CONNECTION)
    for number in range(100):
        staying[number] = users.get(UserId(f"stays-{number}"), 0.0)
        staying[number].connections[:] = [CONNECTION]
    for number in range(10_000):
        users.get(UserId(f"passer-by-{number}"), 0.0)
        assert len(users) <= 2 * len(staying) + 2
    assert all(users.get(user.id, 0.0) is user for user in staying)


@given(
    st.lists(
        st.tuples(
            st.sampled_from("abcdef"),
            st.sampled_from(["look", "say", "open", "close", "run", "end"]),
            st.sampled_from([0.0, 1.0, 30.0, 61.0]),
        ),
        max_size=80,
    )
)
def test_no_user_is_removed_too_early(steps: list[tuple[str, str, float]]) -> None:
    users = Users(rate=2, waiting=1)
    known: dict[str, User] = {}
    now = 0.0
    for name, what, step in steps:
        now += step
        before = known.get(name)
        idle = before is None or before.is_idle(now)
        user = users.get(UserId(name), now)
        assert idle or user is before
        assert user.id == name
        known[name] = user
        if what == "say":
            user.window.take(now)
        elif what == "open":
            user.connections.append(CONNECTION)
        elif what == "close":
            user.connections.clear()
        elif what == "run":
            user.runs[RunId(f"r{now}")] = RUN
        elif what == "end":
            user.runs.clear()
        assert len(users) <= len(known)
