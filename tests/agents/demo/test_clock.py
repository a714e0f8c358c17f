"""The clock: names as people type them, and errors with suggestions."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netra_trio.agents.demo import clock
from netra_trio.agents.demo.clock import MAX_CHARACTERS, find_zones, time_in
from netra_trio.errors import ToolError

SUMMER = 1_751_371_200.0  # 2025-07-01 12:00 UTC
WINTER = 1_735_732_800.0  # 2025-01-01 12:00 UTC


@pytest.mark.parametrize(
    ("zone", "expected"),
    [
        ("Europe/Berlin", "2025-07-01 14:00, Europe/Berlin (UTC+02:00)"),
        ("Berlin", "2025-07-01 14:00, Europe/Berlin (UTC+02:00)"),
        (" berlin ", "2025-07-01 14:00, Europe/Berlin (UTC+02:00)"),
        ("new york", "2025-07-01 08:00, America/New_York (UTC-04:00)"),
        ("america/new_york", "2025-07-01 08:00, America/New_York (UTC-04:00)"),
        ("Port au Prince", "2025-07-01 08:00, America/Port-au-Prince (UTC-04:00)"),
        ("São Paulo", "2025-07-01 09:00, America/Sao_Paulo (UTC-03:00)"),
        ("St. John's", "2025-07-01 09:30, America/St_Johns (UTC-02:30)"),
        ("kathmandu", "2025-07-01 17:45, Asia/Kathmandu (UTC+05:45)"),
        ("UTC", "2025-07-01 12:00, UTC (UTC+00:00)"),
        ("Singapore", "2025-07-01 20:00, Singapore (UTC+08:00)"),
        ("Etc/GMT+5", "2025-07-01 07:00, Etc/GMT+5 (UTC-05:00)"),
    ],
)
def test_names_of_zones(zone: str, expected: str) -> None:
    assert time_in(zone, SUMMER) == expected


def test_the_offset_depends_on_the_date() -> None:
    assert time_in("Berlin", WINTER) == "2025-01-01 13:00, Europe/Berlin (UTC+01:00)"


def test_minutes_are_rounded_down() -> None:
    assert time_in("UTC", 59.999) == "1970-01-01 00:00, UTC (UTC+00:00)"


def test_zones_with_the_same_name_and_time_are_accepted() -> None:
    assert len(find_zones("Pacific")) > 1
    assert time_in("Pacific", SUMMER).startswith("2025-07-01 05:00, ")


def test_zones_with_the_same_name_and_different_times_are_refused() -> None:
    with pytest.raises(
        ToolError, match=r"expected one time zone, got 'West': .*Australia/West or "
    ):
        time_in("West", SUMMER)


@pytest.mark.parametrize(
    ("zone", "expected"),
    [
        ("Tokio", "got 'Tokio'; did you mean Asia/Tokyo?"),
        ("Nwe York", "did you mean America/New_York?"),
        ("Europe/Berln", "did you mean Europe/Berlin"),
        ("xyzzy", "try a large city such as Tokyo, or a name such as Europe/Berlin"),
        ("", "try a large city"),
        ("localtime", "expected a city or time zone, got 'localtime'"),
        ("/etc/localtime", "expected a city or time zone"),
        ("../../etc/passwd", "expected a city or time zone"),
        ("x" * (MAX_CHARACTERS + 1), "at most 64 characters, got 65"),
    ],
)
def test_errors_of_unknown_names(zone: str, expected: str) -> None:
    with pytest.raises(ToolError) as refusal:
        time_in(zone, SUMMER)
    assert expected in str(refusal.value)


def test_the_error_without_time_zone_data(monkeypatch: pytest.MonkeyPatch) -> None:
    clock._zones.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(clock, "available_timezones", set)
        with pytest.raises(ToolError, match="this server has no time zone data"):
            time_in("Tokyo", SUMMER)
    clock._zones.cache_clear()


@settings(deadline=None)  # the first call reads the time zones
@given(st.text(alphabet=st.characters(categories=None), max_size=MAX_CHARACTERS + 1))
def test_any_text_is_a_zone_or_refused(zone: str) -> None:
    assert outcome(zone).startswith(("2025-07-0", "expected "))


def outcome(zone: str) -> str:
    try:
        return time_in(zone, SUMMER)
    except ToolError as refusal:
        return str(refusal)
