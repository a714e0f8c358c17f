'''Python functions as tools of a model.

    def weather(city: str, days: int = 1) -> str:
        """Return the forecast of a city.

Args:
            city: The English name of the city.
            days: How many days.
        """

    function_tool(weather).parameters     # a JSON Schema
'''

import inspect
import re
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, get_type_hints, overload

import attrs
import docstring_parser
import trio
from attrs import frozen

from netra_trio.agents.answer_schema import compile_schema
from netra_trio.agents.run import Run
from netra_trio.errors import ToolError
from netra_trio.models.schema import DESCRIPTION, InvalidValue, schema_of, structure, to_json
from netra_trio.protocol.fields import JsonObject

if TYPE_CHECKING:
    from jsonschema_rs import Draft202012Validator

THREADS = 20  # of one agent, for functions that are not async; further calls wait
NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""The names that the Chat Completions API accepts."""

_MARK = "__netra_tool__"
_F = TypeVar("_F", bound=Callable[..., Any])


class ModelTool(Protocol):
    """A tool that a model may call."""

    @property
    def name(self) -> str:
        """The name that the model uses."""
        ...

    @property
    def description(self) -> str:
        """The description for the model."""
        ...

    @property
    def parameters(self) -> JsonObject:
        """The JSON Schema of its arguments."""
        ...

    @property
    def approve(self) -> bool:
        """Whether the user has to approve each call."""
        ...

    def bind(self, arguments: JsonObject) -> Any:
        """Return the arguments as `call` takes them.

        Raises:
            ToolError: They are invalid.
        """
        ...

    async def call(self, run: Run, arguments: Any) -> Any:
        """Return the result, a JSON value.

        Raises:
            ToolError: It failed; the text is for the model and the user.
        """
        ...


@frozen
class _Options:
    name: str | None
    approve: bool


@overload
def tool(function: _F) -> _F: ...
@overload
def tool(*, name: str | None = None, approve: bool = False) -> Callable[[_F], _F]: ...
def tool(
    function: _F | None = None, *, name: str | None = None, approve: bool = False
) -> _F | Callable[[_F], _F]:
    """Set how a function is used as a tool; the function itself stays as it is.

    Args:
        function: The function, if the decorator is used without arguments.
        name: The name that the model uses; the function's own by default.
        approve: Whether the user has to approve each call.
    """

    def mark(marked: _F) -> _F:
        setattr(marked, _MARK, _Options(name, approve))
        return marked

    return mark if function is None else mark(function)


@frozen(eq=False)
class FunctionTool:
    """A Python function as a tool, made by `function_tool`.

    Attributes:
        name: The name that the model uses.
        description: The text of the docstring.
        parameters: The JSON Schema of its arguments.
        approve: Whether the user has to approve each call.
    """

    name: str
    description: str
    parameters: JsonObject
    approve: bool
    _function: Callable[..., Any]
    _arguments: type
    _validator: "Draft202012Validator"
    _run_parameters: tuple[str, ...]
    _limiter: trio.CapacityLimiter

    def bind(self, arguments: JsonObject) -> dict[str, Any]:
        """Return the arguments with the types of the function's parameters.

        Raises:
            ToolError: They have other types.
        """
        try:
            values = structure(arguments, self._arguments, self._validator)
        except InvalidValue as error:
            raise ToolError(f"invalid arguments: {error}") from None
        return {name: getattr(values, name) for name in attrs.fields_dict(self._arguments)}

    async def call(self, run: Run, arguments: dict[str, Any]) -> Any:
        """Call the function; one that is not async is called in a thread.

        Cancelling abandons a thread, which counts against the limit of threads until it ends.

        Raises:
            ToolError: The result has no counterpart in JSON.
            Exception: Whatever the function raises.
        """
        given = {**arguments, **dict.fromkeys(self._run_parameters, run)}
        call = partial(self._function, **given)
        if inspect.iscoroutinefunction(self._function):
            result = await call()
        else:
            result = await trio.to_thread.run_sync(
                call, abandon_on_cancel=True, limiter=self._limiter
            )
        try:
            return to_json(result)
        except (TypeError, ValueError):
            raise ToolError(f"the result, a {type(result).__name__}, is not JSON") from None


def function_tool(
    function: Callable[..., Any], limiter: trio.CapacityLimiter | None = None
) -> FunctionTool:
    """Make a tool of a function.

    Each parameter needs a type; a parameter of the type `Run` gets the run, and is not shown to the
    model. The docstring describes the tool, and in a section `Args` its parameters.

    Args:
        function: A function, async or not.
        limiter: Limits the threads of functions that are not async.

    Raises:
        TypeError: The function cannot be a tool; the text names it and says why.
        ValueError: Its name is not accepted by the API.
    """
    options: _Options = getattr(function, _MARK, _Options(None, approve=False))
    own = getattr(function, "__name__", type(function).__name__)
    name = options.name or own
    if not NAME.fullmatch(name):
        raise ValueError(f"the tool {name!r}: a name has 1 to 64 letters, digits, _ and -")
    documented = docstring_parser.parse(inspect.getdoc(function) or "")
    texts = {each.arg_name: each.description or "" for each in documented.params}
    try:
        arguments, run_parameters = _arguments_of(function, name, texts)
        parameters = schema_of(arguments)
    except (TypeError, NameError) as error:
        raise TypeError(f"the tool {name}: {error}") from None
    parts = (documented.short_description, documented.long_description)
    return FunctionTool(
        name=name,
        description="\n\n".join(part for part in parts if part),
        parameters=parameters,
        approve=options.approve,
        function=function,
        arguments=arguments,
        validator=compile_schema(parameters),
        run_parameters=run_parameters,
        limiter=limiter or trio.CapacityLimiter(THREADS),
    )


def _arguments_of(
    function: Callable[..., Any], name: str, texts: dict[str, str]
) -> tuple[type, tuple[str, ...]]:
    """Return a class whose fields are the parameters, and the names of those that get the run."""
    hints = get_type_hints(function, include_extras=True)
    fields: dict[str, Any] = {}
    run_parameters: list[str] = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind not in {parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY}:
            raise TypeError(f"the parameter {parameter} cannot be given by name")
        kind = hints.get(parameter.name)
        if parameter.name not in hints:
            raise TypeError(f"the parameter {parameter.name} has no type")
        if kind is Run:
            run_parameters.append(parameter.name)
            continue
        has_default = parameter.default is not parameter.empty
        text = texts.get(parameter.name)
        fields[parameter.name] = attrs.field(
            type=kind,
            alias=parameter.name,
            kw_only=True,
            metadata={DESCRIPTION: text} if text else {},
            default=parameter.default if has_default else attrs.NOTHING,
        )
    return attrs.make_class(name.replace("-", "_"), fields, slots=True), tuple(run_parameters)
