"""The mutants fit the source, and the mutation run reports detected and surviving mutants."""

import ast
from pathlib import Path

import pytest
from attrs import evolve
from support import mutating
from support.mutants import MUTANTS, ROOT, Mutant

MUTANT = Mutant(
    "come back at once",
    "pauses grow",
    "netra_trio/client/retry.py",
    "return at_least + doubled(first, most, self.failures - 1) * chance",
    "return at_least",
    ("tests/client/test_client_rules.py", "-k", "pause"),
)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_fits_the_source(mutant: Mutant, tmp_path: Path) -> None:
    copy = tmp_path / mutant.file
    copy.parent.mkdir(parents=True)
    before = (ROOT / mutant.file).read_text()
    copy.write_text(before)
    mutant.apply(tmp_path)
    assert ast.dump(ast.parse(copy.read_text())) != ast.dump(ast.parse(before))
    assert all((ROOT / name).is_file() for name in mutant.tests if name.endswith(".py"))
    assert mutant.breaks


def test_there_are_at_least_ten_mutants_with_different_names() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 10


@pytest.mark.parametrize("old", ["no such text", "return "])
def test_a_mutant_that_does_not_fit_raises_an_error(tmp_path: Path, old: str) -> None:
    copy = tmp_path / MUTANT.file
    copy.parent.mkdir(parents=True)
    copy.write_text((ROOT / MUTANT.file).read_text())
    with pytest.raises(ValueError, match=r"the old text is [0-9]+ times in"):
        evolve(MUTANT, old=old).apply(tmp_path)


def test_a_mutant_is_detected_or_survives(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    harmless = evolve(
        MUTANT,
        name="harmless",
        new="return at_least + chance * doubled(first, most, self.failures - 1)",
    )
    missing = evolve(MUTANT, name="missing", old="no such text")
    untested = evolve(MUTANT, name="untested", tests=(MUTANT.tests[0], "-k", "nothing_at_all"))
    monkeypatch.setattr(mutating, "MUTANTS", (MUTANT, harmless, missing, untested))
    monkeypatch.setattr(mutating, "check_copy", lambda *_: None)
    assert mutating.main([]) == 1
    shown = capsys.readouterr().out
    assert "test_client_rules.py::test_a_pause_is_within_its_ceiling" in shown
    assert "4 mutants, 3 of them not detected" in shown
    for text in ("survives", "the old text is 0 times in", "pytest ends with 5"):
        assert text in shown
    assert mutating.main(["no such name"]) == 1
    assert "no such mutants: no such name" in capsys.readouterr().out
