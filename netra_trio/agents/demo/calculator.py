"""A calculator that is safe for any text: it evaluates arithmetic only, within bounds.

>>> calculate("12 * (3 + 4)")
84
>>> calculate("2^10 / sqrt(16)")
256.0
>>> calculate("9 ** 9 ** 9")
Traceback (most recent call last):
netra_trio.errors.ToolError: expected whole numbers of at most 4096 bits, got a larger one at **
"""

import ast
import math
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

from attrs import frozen

from netra_trio.errors import ToolError

MAX_CHARACTERS = 200  # of an expression: bounds the time of parsing and the depth
MAX_NESTING = 32  # open parentheses, far below the limit of Python's parser
MAX_BITS = 4096  # of an integer at each step: 1 234 digits; Python prints at most 4 300
MAX_DIGITS = 400  # of round(), positive or negative: no float has more than 324


def _power(base: float, exponent: float) -> Any:
    # Checked before it is computed: only a power can have many times the bits of its operands. The
    # result of any other step has at most twice their bits and is checked afterwards. A power has
    # at least `least` bits, and at most twice as many.
    if isinstance(base, int) and isinstance(exponent, int):
        least = (base.bit_length() - 1) * exponent
        if least > MAX_BITS:
            raise _too_long("**")
    return base**exponent


def _root(value: float) -> float:
    if value < 0:
        raise ToolError("expected a number of at least 0 in sqrt(), got a negative one")
    return math.sqrt(value)


def _round(value: float, digits: float | None = None) -> int | float:
    if digits is None:
        return round(value)
    if not isinstance(digits, int) or abs(digits) > MAX_DIGITS:
        raise ToolError(f"expected a whole number of digits up to {MAX_DIGITS} in round()")
    return round(value, digits)


def _too_long(where: str) -> ToolError:
    return ToolError(
        f"expected whole numbers of at most {MAX_BITS} bits, got a larger one at {where}"
    )


def _too_large(where: str) -> ToolError:
    return ToolError(f"expected decimal numbers below 1.8e308, got a larger one at {where}")


@frozen
class Function:
    """A function of the calculator.

    Attributes:
        call: The function.
        fewest: The smallest number of arguments.
        most: The largest number of arguments.
        takes: The number of arguments as text, for an error.
    """

    call: Callable[..., Any]
    fewest: int
    most: int
    takes: str


CONSTANTS: Mapping[str, float] = {"pi": math.pi, "e": math.e, "tau": math.tau}
FUNCTIONS: Mapping[str, Function] = {
    "sqrt": Function(_root, 1, 1, "one number"),
    "abs": Function(abs, 1, 1, "one number"),
    "round": Function(_round, 1, 2, "one or two numbers"),
    "min": Function(min, 2, MAX_CHARACTERS, "two or more numbers"),
    "max": Function(max, 2, MAX_CHARACTERS, "two or more numbers"),
}

_EXPECTED = "expected arithmetic such as 12 * (3 + 4)"
_TYPED = str.maketrans({"^": "**", "×": "*", "·": "*", "÷": "/", "−": "-"})  # noqa: RUF001 - as people type it
_OPERATORS: Mapping[type[ast.AST], tuple[str, Callable[..., Any]]] = {
    ast.Add: ("+", operator.add),
    ast.Sub: ("-", operator.sub),
    ast.Mult: ("*", operator.mul),
    ast.Div: ("/", operator.truediv),
    ast.FloorDiv: ("//", operator.floordiv),
    ast.Mod: ("%", operator.mod),
    ast.Pow: ("**", _power),
    ast.UAdd: ("+", operator.pos),
    ast.USub: ("-", operator.neg),
}
_MISUSES: Mapping[type[ast.AST], str] = {
    ast.Tuple: "several numbers with commas between them",
    ast.Name: "a function without its parentheses",
    ast.Call: "parentheses behind what is no function; write * to multiply",
}
# A number directly followed by a letter is rejected: Python would accept "0x10" (hexadecimal),
# "2j" (complex) and "1if" (a number and a keyword).
_TOKEN = re.compile(
    r"""\ ?(?:
        (?P<number>(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?(?![A-Za-z0-9_.]))
      | (?P<name>[A-Za-z_][A-Za-z0-9_]*)
      | (?P<sign>\*\*|//|[-+*/%(),])
    )""",
    re.VERBOSE,
)


def calculate(expression: str) -> int | float:
    """Return the value of an arithmetic expression.

    It may have numbers, + - * / // % ** (or ^), parentheses, the functions sqrt, abs, round, min
    and max, and pi, e and tau, with Python's meaning and precedence. Time and memory are bounded
    for any text, by the constants above.

    Raises:
        ToolError: If it is not such an expression, exceeds a bound at any step, or has no real
            value. The text is for the user.
    """
    if len(expression) > MAX_CHARACTERS:
        raise ToolError(
            f"expected an expression of at most {MAX_CHARACTERS} characters, got {len(expression)}"
        )
    text = " ".join(expression.translate(_TYPED).split())
    _check_tokens(text)
    try:
        return _value(ast.parse(text, mode="eval").body)
    except (SyntaxError, MemoryError, RecursionError):  # the last two if little stack is left
        raise ToolError(f"{_EXPECTED}, got {expression!r}") from None


def _check_tokens(text: str) -> None:
    """Refuse any other text before it is parsed, because Python's parser warns about some of it."""
    position = depth = 0
    while position < len(text):
        token = _TOKEN.match(text, position)
        if token is None:
            raise ToolError(f"{_EXPECTED}, got {text[position : position + 20]!r}")
        name, sign = token["name"], token["sign"]
        if name is not None and name not in CONSTANTS and name not in FUNCTIONS:
            known = ", ".join([*FUNCTIONS, *CONSTANTS])
            raise ToolError(f"expected one of {known}, got {name!r}")
        depth += (sign == "(") - (sign == ")")
        if depth > MAX_NESTING:
            raise ToolError(f"expected at most {MAX_NESTING} open parentheses, got more")
        position = token.end()


def _value(node: ast.expr) -> int | float:
    """Evaluate the tree recursively: 200 characters make fewer than 200 levels."""
    match node:
        case ast.Constant(value=int() | float() as number):
            return _checked(number, "a number")
        case ast.Name(id=name) if name in CONSTANTS:
            return CONSTANTS[name]
        case ast.UnaryOp(op=op, operand=operand) if type(op) in _OPERATORS:
            return _apply(*_OPERATORS[type(op)], _value(operand))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return _apply(*_OPERATORS[type(op)], _value(left), _value(right))
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in FUNCTIONS:
            return _call(name, [_value(argument) for argument in args])
    raise ToolError(f"{_EXPECTED}, got {_MISUSES.get(type(node), 'something else')}")


def _call(name: str, arguments: list[int | float]) -> int | float:
    function = FUNCTIONS[name]
    if not function.fewest <= len(arguments) <= function.most:
        raise ToolError(f"expected {function.takes} in {name}(), got {len(arguments)}")
    return _apply(f"{name}()", function.call, *arguments)


def _apply(where: str, function: Callable[..., Any], *operands: float) -> int | float:
    """Compute one step, and convert Python's exceptions into a `ToolError`."""
    try:
        return _checked(function(*operands), where)
    except ZeroDivisionError:
        raise ToolError(f"expected a divisor other than 0, got 0 at {where}") from None
    except OverflowError:
        raise _too_large(where) from None


def _checked(value: Any, where: str) -> int | float:
    """Return the value if it is real and within the bounds."""
    if isinstance(value, int):
        if value.bit_length() > MAX_BITS:
            raise _too_long(where)
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise _too_large(where)
        return value
    raise ToolError(f"expected a real result, got an imaginary one at {where}")
