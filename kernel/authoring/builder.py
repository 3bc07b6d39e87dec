"""`WorkflowBuilder`: says which stages follow which, and is followed by type checkers while it does.

The builder's type parameters are the workflow's input, what the next stage will be given, and the declared output. So
a stage that cannot follow is an error in an editor; `build` finds the same at run time, for everybody else.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, Literal, cast, overload

from typing_extensions import TypeVar

from kernel.authoring.build_checks import check_output, check_stages_follow, check_structure
from kernel.authoring.dataflow import StageGroup
from kernel.authoring.identifiers import IDENTIFIER_RULE, identifier_problem, version_problem
from kernel.authoring.schema import NONE, Schema, UnusableType
from kernel.authoring.stage import Stage
from kernel.authoring.workflow import Workflow
from kernel.errors import InvalidWorkflow

__all__ = ["Inferred", "WorkflowBuilder"]

I = TypeVar("I")  # noqa: E741  # reads better than any other letter beside R
# Covariant, so that a last stage may return a subclass of the declared output.
P_co = TypeVar("P_co", covariant=True)
R = TypeVar("R")
N = TypeVar("N")
O = TypeVar("O")  # noqa: E741
T = TypeVar("T")


class Inferred:
    """Stands, for type checkers, for an output that was not declared: `build` takes the last stage's."""


if TYPE_CHECKING:

    class _Build:
        """The type of `build`, which exists only where what the last stage gives is the declared output.

        A descriptor, because mypy forgets type variables when it compares an annotated `self` with the receiver, and
        so would let a mismatch pass; the argument of `__get__` it compares like any other.
        """

        @overload
        def __get__(
            self, builder: WorkflowBuilder[I, O, Inferred], owner: object = None, /
        ) -> Callable[[], Workflow[I, O]]: ...
        @overload
        def __get__(
            self, builder: WorkflowBuilder[I, O, O], owner: object = None, /
        ) -> Callable[[], Workflow[I, O]]: ...
        def __get__(self, builder: Any, owner: object = None, /) -> Any: ...


class WorkflowBuilder(Generic[I, P_co, R]):
    """Puts stages in order; immutable, so every call returns a new builder and the old one can go on elsewhere.

    `WorkflowBuilder("documents", input=Doc, output=Report).pipe(extract).parallel([a, b]).pipe(report).build()`.
    `input=None` is a workflow that takes nothing; without `output` it is that of the last stage, or the mapping of
    stage id to output when the last group is parallel.
    """

    _id: str
    _name: str
    _description: str
    _version: str
    _input: object
    _output: object
    _groups: tuple[StageGroup, ...]

    @overload
    def __new__(
        cls, id: str, *, input: type[T], output: type[N], name: str = "", description: str = "", version: str = "1"
    ) -> WorkflowBuilder[T, T, N]: ...
    @overload
    def __new__(
        cls, id: str, *, input: None = None, output: type[N], name: str = "", description: str = "", version: str = "1"
    ) -> WorkflowBuilder[None, None, N]: ...
    @overload
    def __new__(
        cls, id: str, *, input: type[T], output: None = None, name: str = "", description: str = "", version: str = "1"
    ) -> WorkflowBuilder[T, T, Inferred]: ...
    @overload
    def __new__(
        cls,
        id: str,
        *,
        input: None = None,
        output: None = None,
        name: str = "",
        description: str = "",
        version: str = "1",
    ) -> WorkflowBuilder[None, None, Inferred]: ...
    def __new__(
        cls,
        id: str,
        *,
        input: object = None,
        output: object = None,
        name: str = "",
        description: str = "",
        version: str = "1",
    ) -> Any:
        """Begin a workflow. Raises: InvalidWorkflow for an id or a version that is not allowed."""
        problem = identifier_problem(id)
        if problem is not None:
            raise InvalidWorkflow(str(id), f"its id {problem}", hint=IDENTIFIER_RULE)
        problem = version_problem(version)
        if problem is not None:
            raise InvalidWorkflow(id, f"its version {problem}", hint='Write version="1".')
        builder = object.__new__(cls)
        builder._id = id
        builder._name = name or id
        builder._description = description
        builder._version = version
        builder._input = input
        builder._output = output
        builder._groups = ()
        return builder

    def __repr__(self) -> str:
        return f"<WorkflowBuilder {self._id!r} with {len(self._groups)} groups>"

    @overload
    def pipe(self, stage: Stage[None, N, Any], /) -> WorkflowBuilder[I, N, R]: ...
    @overload
    def pipe(self, stage: Stage[P_co, N, Any], /) -> WorkflowBuilder[I, N, R]: ...
    def pipe(self, stage: Stage[Any, Any, Any], /) -> WorkflowBuilder[Any, Any, Any]:
        """Then this stage, given what the stages before give. Raises: InvalidWorkflow for what is not a stage."""
        return self._with(StageGroup(stages=(self._checked(stage),)))

    def parallel(
        self,
        stages: Sequence[Stage[P_co, Any, Any] | Stage[None, Any, Any]],
        *,
        on_failure: Literal["finish", "cancel"] = "finish",
    ) -> WorkflowBuilder[I, Any, R]:
        """Then these stages at the same time, each given what the stages before give.

        When one fails the others end first ("finish") or are cancelled at once ("cancel"). The next stage is given a
        mapping of stage id to output. Raises: InvalidWorkflow for what is not a stage.
        """
        checked = tuple(self._checked(stage) for stage in self._listed(stages))
        return self._with(StageGroup(stages=checked, parallel=True, on_failure=on_failure))

    if TYPE_CHECKING:
        build: _Build = _Build()
    else:

        def build(self) -> Workflow[Any, Any]:
            """Resolve the stages' types, check everything, and return the workflow.

            Raises: InvalidWorkflow, InvalidStage: the first mistake, with the stage and the fix.
            """
            frame = inspect.currentframe()
            caller = None if frame is None else frame.f_back
            return self._built({} if caller is None else caller.f_locals)

    def _built(self, caller_locals: Mapping[str, Any]) -> Workflow[Any, Any]:
        workflow_id, groups = self._id, self._groups
        check_structure(workflow_id, groups)
        for group in groups:
            for stage in group.stages:
                stage.resolve(caller_locals)
        run_input = _schema(workflow_id, "input", self._input)
        check_stages_follow(workflow_id, groups, run_input)
        last = groups[-1]
        declared = self._output is not None
        if declared:
            output = _schema(workflow_id, "output", self._output)
            check_output(workflow_id, last, output)
        else:
            output = Schema(dict[str, Any]) if last.parallel else last.stages[0].schemas.output
        return Workflow(
            workflow_id,
            name=self._name,
            description=self._description,
            version=self._version,
            groups=groups,
            input_schema=run_input,
            output_schema=output,
            output_declared=declared,
        )

    def _with(self, group: StageGroup) -> WorkflowBuilder[Any, Any, Any]:
        copy: WorkflowBuilder[Any, Any, Any] = cast("Any", object.__new__(WorkflowBuilder))
        copy.__dict__.update(self.__dict__)
        copy._groups = (*self._groups, group)
        return copy

    def _listed(self, stages: object) -> list[object]:
        if isinstance(stages, Stage | str) or not isinstance(stages, Sequence):
            raise InvalidWorkflow(self._id, ".parallel takes a list of stages", hint="Write .parallel([a, b]).")
        return list(cast("Sequence[object]", stages))

    def _checked(self, stage: object) -> Stage[Any, Any, Any]:
        if not isinstance(stage, Stage):
            hint = "Decorate the function with @stage(...)." if callable(stage) else "Pass a stage made by @stage(...)."
            raise InvalidWorkflow(self._id, f"{stage!r} is not a stage", hint=hint)
        # The detour: what isinstance leaves unknown to one type checker is already Any to another.
        return cast("Stage[Any, Any, Any]", cast("Any", stage))


def _schema(workflow_id: str, role: str, annotation: object) -> Schema:
    if annotation is None:
        return NONE
    try:
        return Schema(annotation)
    except UnusableType as error:
        raise InvalidWorkflow(
            workflow_id,
            f"its {role} type cannot be used: {error.reason}",
            hint="Use pydantic models, TypedDicts, JSON scalars, and lists and mappings of them.",
        ) from error
