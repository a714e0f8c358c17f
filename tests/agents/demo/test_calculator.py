"""The calculator: the same results as Python, and one kind of error for anything else."""

import math
import sys

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from netra_trio.agents.demo.calculator import MAX_BITS, MAX_CHARACTERS, MAX_NESTING, calculate
from netra_trio.errors import ToolError

NAMES = {
    "sqrt": math.sqrt, "abs": abs, "round": round, "min": min, "max": max, "pi": math.pi,
}  # fmt: skip

NUMBERS = st.integers(0, 1000).map(str) | st.sampled_from(
    ["0.5", ".25", "3.", "1e3", "2.5e-3", "pi"]
)
POWERS = st.builds("{} ** {}".format, st.integers(0, 50), st.integers(-4, 8))


def extend(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    signs = st.sampled_from(["+", "-", "*", "/", "//", "%"])
    return st.one_of(
        st.builds("{} {} {}".format, inner, signs, inner),
        st.builds("({}){}({})".format, inner, signs, inner),
        st.builds("{}({})".format, st.sampled_from(["", "-", "+", "abs", "round"]), inner),
        st.builds("{}({}, {})".format, st.sampled_from(["min", "max"]), inner, inner),
        st.builds("sqrt(abs({}))".format, inner),
    )


# Twelve leaves of at most 48 bits stay below the bound, so the result must be that of Python.
EXPRESSIONS = st.recursive(NUMBERS | POWERS, extend, max_leaves=12)


@given(EXPRESSIONS)
def test_results_agree_with_python(expression: str) -> None:
    assume(len(expression) <= MAX_CHARACTERS and expression.count("(") <= MAX_NESTING)
    try:
        expected = eval(expression, {"__builtins__": {}}, NAMES)  # noqa: S307 - made above
    except (ZeroDivisionError, OverflowError):
        with pytest.raises(ToolError):
            calculate(expression)
    else:
        result = calculate(expression)
        assert (type(result), result) == (type(expected), expected)


SIGNS = "+-*/%^(), \n×÷"  # noqa: RUF001


def check_bounded(expression: str) -> None:
    """Check that it is computed within the bounds, or refused as documented."""
    result = outcome(expression)
    if isinstance(result, ToolError):
        assert str(result).startswith("expected ")
        assert len(str(result)) <= 11 * MAX_CHARACTERS  # an escaped character has up to 10
    elif isinstance(result, int):
        assert result.bit_length() <= MAX_BITS
        assert int(str(result)) == result
    else:
        assert math.isfinite(result)


def outcome(expression: str) -> float | ToolError:
    try:
        return calculate(expression)
    except ToolError as refusal:
        return refusal


@given(st.text(alphabet="0123456789.eE" + SIGNS, max_size=MAX_CHARACTERS + 1))
def test_any_arithmetic_is_bounded(expression: str) -> None:
    check_bounded(expression)


@given(st.lists(st.sampled_from(["9", "**", "^", "-", "(", ")", "round(", "1e308", ",", "*", " "])))
def test_any_sequence_of_operators_is_bounded(tokens: list[str]) -> None:
    check_bounded("".join(tokens))


@given(st.text(alphabet=st.characters(categories=None), max_size=300))
@example("\ud800")
@example("\x00")
@example("'\\d' + 1")
@example("1if 1else 2")
def test_any_text_is_computed_or_refused(expression: str) -> None:
    check_bounded(expression)


@pytest.mark.parametrize(
    ("expression", "result"),
    [
        ("12*(3+4)", 84),
        ("2^10", 1024),
        ("2^-1", 0.5),
        ("-2 ** 2", -4),
        ("2 ** 3 ** 2", 512),
        ("7 // 2 + 7 % 4", 6),
        ("6 × 7 ÷ 2 − 1", 20.0),  # noqa: RUF001
        ("  1\n+\t2  ", 3),
        ("sqrt(2) ** 2 - tau / pi", 4.440892098500626e-16),
        ("round(pi, 2) + round(1234, -2)", 1203.14),
        ("round(2.5)", 2),
        ("min(3, 1, 2) - max(1, 2)", -1),
        ("1" + "+1" * 99, 100),
        ("-" * 199 + "1", -1),
        ("(" * MAX_NESTING + "1" + ")" * MAX_NESTING, 1),
        ("2**4095", 2**4095),
        ("1 ** 2 ** 4000", 1),
        ("(-1) ** (2 ** 4000 + 1)", -1),
    ],
)
def test_results_of_examples(expression: str, result: float) -> None:
    assert calculate(expression) == result


@pytest.mark.parametrize(
    ("expression", "error"),
    [
        ("", "arithmetic such as 12 * (3 + 4), got ''"),
        ("2 +", "arithmetic such as 12 * (3 + 4), got '2 +'"),
        ("1 2", "got '1 2'"),
        ("$5", "got '$5'"),
        ("1 << 4", "got ' << 4'"),
        ("0x10", "got '0x10'"),
        ("2j", "got '2j'"),
        ("1,000", "got several numbers with commas"),
        ("sqrt", "got a function without its parentheses"),
        ("2(3)", "write * to multiply"),
        ("max(*min(1, 2))", "got something else"),
        ("max(**2)", "expected arithmetic"),
        ("__import__('os')", "one of sqrt, abs, round, min, max, pi, e, tau, got '__import__'"),
        ("True", "got 'True'"),
        ("lambda", "got 'lambda'"),
        ("sqrt(1, 2)", "one number in sqrt(), got 2"),
        ("round()", "one or two numbers in round(), got 0"),
        ("min(1)", "two or more numbers in min(), got 1"),
        ("1 / 0", "a divisor other than 0, got 0 at /"),
        ("1 // 0.0", "a divisor other than 0, got 0 at //"),
        ("1 % 0", "a divisor other than 0, got 0 at %"),
        ("0 ** -1", "a divisor other than 0, got 0 at **"),
        ("sqrt(-1)", "at least 0 in sqrt(), got a negative one"),
        ("(-8) ** 0.5", "a real result, got an imaginary one at **"),
        ("1e308 * 10", "below 1.8e308, got a larger one at *"),
        ("1e999", "below 1.8e308, got a larger one at a number"),
        ("2 ** 3000 / 3.0", "below 1.8e308, got a larger one at /"),
        ("sqrt(2 ** 3000)", "below 1.8e308, got a larger one at sqrt()"),
        ("10.0 ** 400", "below 1.8e308, got a larger one at **"),
        ("2 ** -(2 ** 4000)", "below 1.8e308, got a larger one at **"),
        ("9 ** 9 ** 9", "at most 4096 bits, got a larger one at **"),
        ("2 ** 4096", "at most 4096 bits, got a larger one at **"),
        ("3 ** 4096", "at most 4096 bits, got a larger one at **"),
        ("2 ** 4000 * 2 ** 4000", "at most 4096 bits, got a larger one at *"),
        ("round(5, -10 ** 9)", "a whole number of digits up to 400 in round()"),
        ("round(2.5, 1.5)", "a whole number of digits up to 400 in round()"),
        ("(" * (MAX_NESTING + 1), "at most 32 open parentheses, got more"),
        ("1" * 201, "at most 200 characters, got 201"),
    ],
)
def test_errors_of_examples(expression: str, error: str) -> None:
    with pytest.raises(ToolError) as refusal:
        calculate(expression)
    assert str(refusal.value).startswith("expected ")
    assert error in str(refusal.value)


def test_an_expression_is_refused_if_little_stack_is_left() -> None:
    def call_from(depth: int) -> float:
        return call_from(depth - 1) if depth else calculate("-" * 199 + "1")

    used = 0
    frame = sys._getframe()
    while frame.f_back is not None:
        frame, used = frame.f_back, used + 1
    with pytest.raises(ToolError):
        call_from(sys.getrecursionlimit() - used - 150)
