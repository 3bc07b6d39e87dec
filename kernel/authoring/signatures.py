"""Reading a function's signature: which types does a stage body or a check declare?

`StageContext[Input, Config, State] -> Output` says everything, so it is read rather than repeated in options. Types
are resolved late, when the workflow is built, because a module may define its models after its stages and may write
annotations as text. What cannot be resolved is an `InvalidStage` that says how to repair it.

This module reads; what the types mean for a workflow is decided elsewhere.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Never, NoReturn, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel
from typing_extensions import TypeVar

from kernel.authoring.context import StageContext
from kernel.authoring.results import StageResult, Suspend
from kernel.authoring.schema import is_model
from kernel.authoring.type_names import type_name, union_members
from kernel.errors import InvalidStage

__all__ = [
    "UNKNOWN",
    "BodyTypes",
    "Unknown",
    "check_callable",
    "locals_of_caller",
    "names_in_scope",
    "place_of",
    "read_body",
    "read_check_state",
    "read_return",
    "resolution_scope",
    "returns_awaitable",
]


class Unknown:
    """Stands for a type that the annotations do not tell."""


UNKNOWN = Unknown()

_NEVER: tuple[object, ...] = (Never, NoReturn)

_EXPLICIT: dict[str, str] = {
    "input": "annotate the first parameter as StageContext[Input], or pass input=",
    "output": 'annotate what the body returns ("-> Output", "-> None"), or pass output=',
}


@dataclass(frozen=True, slots=True, kw_only=True)
class BodyTypes:
    """What a body's annotations declare; `UNKNOWN` where they say nothing, None for "takes none"."""

    input: object
    output: object
    config: object
    state: object
    is_async: bool


def place_of(function: Callable[..., Any]) -> str:
    """Where a function is defined, in words for a message: module, qualified name and line."""
    plain = inspect.unwrap(function)
    code = getattr(plain, "__code__", None)
    line = f", line {code.co_firstlineno}" if isinstance(code, types.CodeType) else ""
    name = getattr(plain, "__qualname__", type(plain).__qualname__)
    return f"{getattr(plain, '__module__', '?')}.{name}{line}"


def returns_awaitable(function: Callable[..., Any]) -> bool:
    """Whether what the function returns is to be awaited: it is `async def`, or wraps one that is."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(inspect.unwrap(function))


def check_callable(stage_id: str, function: object, *, role: str, parameters: tuple[str, ...]) -> None:
    """Refuse what cannot be called with these positional arguments, or would answer with a generator.

    `role` is "body" or "check". Raises: InvalidStage.
    """
    if not callable(function) or isinstance(function, type):
        raise InvalidStage(stage_id, f"its {role} is {function!r}, which is not a function")
    plain = inspect.unwrap(function)
    if inspect.isgeneratorfunction(plain) or inspect.isasyncgenfunction(plain):
        raise InvalidStage(
            stage_id, f"its {role} {place_of(function)} is a generator", hint='Use "return", not "yield".'
        )
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError) as error:
        raise InvalidStage(stage_id, f"the signature of its {role} cannot be read: {error}") from error
    try:
        signature.bind(*parameters)
    except TypeError as error:
        wanted = ", ".join(parameters)
        reason = f"its {role} {place_of(function)}{signature} cannot be called with ({wanted}): {error}"
        raise InvalidStage(
            stage_id, reason, hint=f'Write "def {getattr(plain, "__name__", role)}({wanted})".'
        ) from None


def names_in_scope(function: Callable[..., Any], caller_locals: Mapping[str, Any]) -> dict[str, Any]:
    """Those locals of the defining scope that the function's annotations (written as text) mention.

    Only these are kept until the types are resolved, so that a stage defined in a function does not keep everything
    alive that the function held.
    """
    mentioned: set[str] = set()
    for annotation in _raw_annotations(inspect.unwrap(function)).values():
        if isinstance(annotation, str):
            try:
                mentioned.update(_code_names(compile(annotation, "<annotation>", "eval")))
            except SyntaxError:
                continue  # reported when the annotation is resolved
    return {name: caller_locals[name] for name in mentioned if name in caller_locals}


def locals_of_caller() -> Mapping[str, Any]:
    """The local names of whoever called the function that calls this one."""
    frame = inspect.currentframe()
    for _ in range(2):
        frame = None if frame is None else frame.f_back
    # At module level the locals are the globals, which the decorated function knows by itself.
    return {} if frame is None or frame.f_locals is frame.f_globals else frame.f_locals


def resolution_scope(
    function: Callable[..., Any], kept: Mapping[str, Any], builder_locals: Mapping[str, Any]
) -> dict[str, Any]:
    """The names by which annotations are resolved: where the workflow is built, where the function is defined, its own.

    Later ones win.
    """
    plain = inspect.unwrap(function)
    plain = getattr(plain, "__func__", plain)
    enclosed: dict[str, Any] = {}
    code, cells = getattr(plain, "__code__", None), getattr(plain, "__closure__", None)
    if isinstance(code, types.CodeType) and cells is not None:
        for name, cell in zip(code.co_freevars, cells, strict=True):
            try:
                enclosed[name] = cell.cell_contents
            except ValueError:  # the variable has no value yet
                continue
    module_names: Mapping[str, Any] = getattr(plain, "__globals__", {})
    return {**builder_locals, **module_names, **kept, **enclosed}


def read_body(
    stage_id: str,
    body: Callable[..., Any],
    scope: Mapping[str, Any],
    *,
    suspends: bool,
    known: frozenset[Literal["input", "output", "config"]],
) -> BodyTypes:
    """The types of a body; `known` ones are given explicitly, so their annotations need not say anything.

    Raises: InvalidStage when an annotation that is needed is missing, cannot be resolved, or is not what it must be.
    """
    plain = inspect.unwrap(body)
    annotations = _raw_annotations(plain)
    parameter = next(iter(inspect.signature(plain).parameters), None)
    if parameter == "self":  # a bound method: its signature, unlike its function's, begins with the context
        parameter = next(iter(inspect.signature(body).parameters), None)
    context = _resolved(
        stage_id, "the context parameter", annotations.get(parameter or "", UNKNOWN), scope, optional="input" in known
    )
    input_, config, state = _context_types(stage_id, context, known)
    returned = _resolved(
        stage_id, "the return type", annotations.get("return", UNKNOWN), scope, optional="output" in known
    )
    is_async = returns_awaitable(body)
    if get_origin(returned) in (Awaitable, Coroutine) and not is_async:
        is_async, returned = True, get_args(returned)[-1]
    output, suspended = read_return(stage_id, returned, suspends=suspends, known="output" in known)
    return BodyTypes(
        input=input_,
        output=output,
        config=config,
        state=_agreed_state(stage_id, state, suspended) if suspends else None,
        is_async=is_async,
    )


def read_return(stage_id: str, returned: object, *, suspends: bool, known: bool) -> tuple[object, object]:
    """Split a return annotation into (output type, state type), without the wrappers of results.

    Raises: InvalidStage when a plain stage announces a Suspend, or no output is left and none is `known` otherwise.
    """
    outputs: list[object] = []
    states: list[object] = []
    for member in union_members(_without_metadata(returned)):
        origin = get_origin(member) or member
        if origin is Suspend:
            states.append(_single_argument(stage_id, member, "Suspend[State]"))
        elif origin is StageResult:
            outputs.append(_single_argument(stage_id, member, "StageResult[Output]"))
        elif member in _NEVER:
            outputs.append(None)  # a body that always raises has no output to describe
        elif not isinstance(member, Unknown):
            outputs.append(member)
    if states and not suspends:
        raise InvalidStage(
            stage_id, "its body is annotated to return Suspend", hint="Use @batch_stage and give it a .check function."
        )
    if len({type_name(state) for state in states}) > 1:
        raise InvalidStage(stage_id, "its body suspends with different states", hint="Use one state model.")
    state = states[0] if states else UNKNOWN
    if not outputs:
        if known:
            return UNKNOWN, state
        hint = "Annotate it: Suspend[State] | Output, or Suspend[State] | None." if suspends else None
        reason = "the annotation of its body does not say what it returns in the end"
        raise InvalidStage(stage_id, reason, hint=hint or f"Please {_EXPLICIT['output']}.")
    return _union(outputs), state


def read_check_state(stage_id: str, check: Callable[..., Any], scope: Mapping[str, Any]) -> object:
    """The type of a check's first parameter, or UNKNOWN. Raises: InvalidStage when it is written but not resolvable."""
    plain = inspect.unwrap(check)
    parameter = next(iter(inspect.signature(check).parameters))
    annotation = _raw_annotations(plain).get(parameter, UNKNOWN)
    return _resolved(stage_id, f'parameter "{parameter}" of its check', annotation, scope, optional=False)


def _context_types(stage_id: str, context: object, known: frozenset[str]) -> tuple[object, object, object]:
    context = _without_metadata(context)
    if context is StageContext:
        return None, None, UNKNOWN
    if get_origin(context) is StageContext:
        arguments = get_args(context)
        input_ = arguments[0]
        config = arguments[1] if len(arguments) > 1 else BaseModel
        state = arguments[2] if len(arguments) > 2 else Any
        for argument in (input_, config, state):
            if isinstance(argument, TypeVar):
                raise InvalidStage(stage_id, f"its context has the type variable {argument}", hint="Name the type.")
        # The defaults of the type parameters stand for "takes none".
        return input_, None if config is BaseModel else config, UNKNOWN if state is Any else state
    if "input" in known:
        return UNKNOWN, None, UNKNOWN
    if isinstance(context, Unknown) or context is Any:
        raise InvalidStage(stage_id, "its context parameter has no annotation", hint=f"Please {_EXPLICIT['input']}.")
    raise InvalidStage(
        stage_id,
        f"its first parameter is annotated as {type_name(context)}",
        hint=f"A body takes a context: StageContext[{type_name(context)}], whose .input is the value.",
    )


def _agreed_state(stage_id: str, of_context: object, of_suspend: object) -> object:
    """The state's type from `Suspend[State]`, or else from the context; both must agree."""
    if isinstance(of_suspend, Unknown):
        if isinstance(of_context, Unknown):
            reason = "nothing says what its suspended state is"
            raise InvalidStage(stage_id, reason, hint='Annotate the body "-> Suspend[State] | Output".')
        of_suspend = of_context
    elif not isinstance(of_context, Unknown) and of_context != of_suspend:
        raise InvalidStage(
            stage_id,
            f"its context says that the state is {type_name(of_context)}, but it suspends with {type_name(of_suspend)}",
        )
    if not is_model(of_suspend):
        reason = f"its suspended state is {type_name(of_suspend)}, which is not a pydantic model"
        raise InvalidStage(stage_id, reason, hint="Make it a class that inherits from pydantic.BaseModel.")
    return of_suspend


def _single_argument(stage_id: str, member: object, form: str) -> object:
    arguments = get_args(member)
    if len(arguments) != 1 or isinstance(arguments[0], TypeVar):
        raise InvalidStage(stage_id, f"its annotation has {type_name(member)} without a type", hint=f"Write {form}.")
    return arguments[0]


def _union(members: list[object]) -> object:
    unique = list(dict.fromkeys(None if member is type(None) else member for member in members))
    return unique[0] if len(unique) == 1 else Union[tuple(unique)]  # noqa: UP007  # built from values


def _without_metadata(annotation: object) -> object:
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def _raw_annotations(function: object) -> Mapping[str, Any]:
    try:
        return getattr(function, "__annotations__", {})
    except NameError:  # from Python 3.14 on, annotations are evaluated when they are asked for
        return {}


def _code_names(code: types.CodeType) -> set[str]:
    nested = [name for const in code.co_consts if isinstance(const, types.CodeType) for name in _code_names(const)]
    # A forward reference inside a string annotation is a string constant: list["Doc"].
    quoted = [const for const in code.co_consts if isinstance(const, str) and const.isidentifier()]
    return {*code.co_names, *nested, *quoted}


def _resolved(stage_id: str, what: str, annotation: object, scope: Mapping[str, Any], *, optional: bool) -> object:
    """Evaluate one annotation; UNKNOWN when there is none, or when it is optional and cannot be evaluated."""
    if isinstance(annotation, Unknown) or annotation is inspect.Parameter.empty:
        return UNKNOWN
    carrier = types.SimpleNamespace(__annotations__={"it": annotation})
    try:
        return get_type_hints(carrier, dict(scope), {}, include_extras=True)["it"]
    except (NameError, AttributeError, TypeError, ValueError, SyntaxError, LookupError, ImportError) as error:
        if optional:
            return UNKNOWN
        reason = f"the annotation {str(annotation)!r} of {what} cannot be resolved: {error}"
        hint = (
            "Import the name where the stage is defined (not only under TYPE_CHECKING), define it before build(), "
            "or pass input=, output= and config= to the decorator."
        )
        raise InvalidStage(stage_id, reason, hint=hint) from error
