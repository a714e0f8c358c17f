"""The seeds of the simulation that every run tests; `nox -s simulate` tests thousands."""

import pytest
from support.simulation import Plan, make_plan, report, simulate

SEEDS = 50  # 10 s of one core
BATCH = 10
BATCHES = range(BATCH, SEEDS, BATCH)  # after the first one
UNMEASURED = pytest.mark.unmeasured

REPEATED = 19


@pytest.mark.parametrize("first", [0, *(pytest.param(each, marks=UNMEASURED) for each in BATCHES)])
def test_seeds(first: int) -> None:
    for seed in range(first, first + BATCH):
        check(make_plan(seed))


def check(plan: Plan) -> None:
    violations = simulate(plan)
    assert not violations, report(plan, violations)


def test_a_seed_determines_everything() -> None:
    plan = make_plan(REPEATED)
    assert str(plan) == str(make_plan(REPEATED))
    histories: list[list[object]] = []
    for _ in range(2):
        histories.append([])
        assert not simulate(plan, histories[-1])
    assert histories[0] == histories[1]
    assert len(histories[0]) > 100


def test_a_fault_of_the_nodes_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ends that are stored before the text is copied, for example, and nodes without fences."""

    def settle(*_: object) -> None:
        """Do nothing: nothing is ever fenced, and all events are held until they are given up."""

    monkeypatch.setattr("netra_trio.sessions.replica.Replica.settle", settle)
    assert any(simulate(make_plan(seed)) for seed in range(40))
