"""What a process counts and measures, offered to OpenTelemetry under the names of `telemetry.names`.

Theory of operation. Whoever notices something calls a method of `Meters`, which adds to a tally and returns; the SDK
asks for sums and gauges when it collects, in a thread of its own, and then only numbers that are there already are
read. So nothing here waits, and nothing costs more because somebody exports often.

An engine that is not metered has no `Meters`: `find_meters` answers None without importing OpenTelemetry, unless the
program has set up a meter provider of its SDK. There is one for a process, whatever number of supervisors it has,
because there is one meter provider. Clients ask for it once, when they are opened, as they ask who traces.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeAlias

from kernel.command import Command
from kernel.commands.execute_job import ExecuteJobResult
from kernel.dispatch import Middleware
from kernel.model.facts import (
    Fact,
    RunCancelled,
    RunCompleted,
    RunFailed,
    RunStarted,
    StageCompleted,
    StageFailed,
    StageRetrying,
)
from kernel.model.run import RunState
from kernel.ports.persistence import Append
from telemetry import names
from telemetry.names import MetricName
from telemetry.tallies import Distribution, Distributions, Key, RecordedDistribution, Totals, attributes_of

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation

__all__ = ["Meters", "Reading", "Source", "find_meters", "timed", "use_meters"]

Reading: TypeAlias = tuple[MetricName, Key, float]
Source: TypeAlias = Callable[[], Iterable[Reading]]
"""Tells what the gauges of one supervisor stand at now; called from any thread, and must only read."""

NS = 1e-9


class Meters:
    """The tallies of this process. Plain calls that never wait; which thread calls does not matter.

    With `own_histograms` histograms are kept here, for exporters that ask for them (`distributions`); otherwise every
    value goes into an instrument of the provider's.
    """

    def __init__(self, provider: MeterProvider, *, own_histograms: bool = False) -> None:
        from opentelemetry.metrics import Observation

        self._observation: type[Observation] = Observation
        self._meter = provider.get_meter(names.SCOPE)
        self._own = own_histograms
        self._sources: list[Source] = []
        self.distributions: list[Distributions] = []
        self._started = self._counter(names.RUNS_STARTED)
        self._completed = self._counter(names.RUNS_COMPLETED)
        self._failed = self._counter(names.RUNS_FAILED)
        self._cancelled = self._counter(names.RUNS_CANCELLED)
        self._retried = self._counter(names.STAGES_RETRIED)
        self._stages_failed = self._counter(names.STAGES_FAILED)
        self._renewals = self._counter(names.LEASE_RENEWALS)
        self._losses = self._counter(names.LEASES_LOST)
        self._runs = self._histogram(names.RUN_DURATION)
        self._stages = self._histogram(names.STAGE_DURATION)
        self.commands: Distribution = self._histogram(names.COMMAND_DURATION)
        self._batch_sizes = self._histogram(names.APPEND_BATCH_SIZE)
        self._batches = self._histogram(names.APPEND_DURATION)
        self._claims = self._histogram(names.CLAIM_LATENCY)
        self._renewal_durations = self._histogram(names.LEASE_RENEWAL_DURATION)
        self._lag = self._histogram(names.LOOP_LAG)
        self._tellers: Mapping[type, Callable[[RunState, Any], None]] = {
            RunStarted: self._run_started,
            RunCompleted: self._run_completed,
            RunFailed: self._run_failed,
            RunCancelled: self._run_cancelled,
            StageRetrying: self._stage_retrying,
            StageFailed: self._stage_failed,
        }
        for name in names.METRICS:
            if name.kind == "gauge":
                self._meter.create_observable_gauge(name.name, [self._read(name)], name.unit, name.meaning)
        for name in (names.HINTS_OUTAGES, names.SPANS_DROPPED):
            self._meter.create_observable_counter(name.name, [self._read(name)], name.unit, name.meaning)

    # -- runs ----------------------------------------------------------------------------------------------------------

    def know(self, workflow_ids: Iterable[str]) -> None:
        """The runs of these workflows are counted from 0 on; others are, once the first of them is counted."""
        for workflow_id in workflow_ids:
            for totals in (self._started, self._completed, self._failed, self._cancelled):
                totals.start((workflow_id,))

    def told(self, state: RunState, facts: Sequence[Fact]) -> None:
        """These facts have become durable, and led to this state; of all processes one tells each fact, once."""
        tellers = self._tellers
        for fact in facts:
            if isinstance(fact, StageCompleted):
                # The one of which a run has several.
                self._stages.record(fact.duration_s, (state.workflow_id, fact.stage_id))
            # By type, because most facts are none of these, and a match would ask about each of them in turn.
            elif (tell := tellers.get(type(fact))) is not None:
                tell(state, fact)

    def _run_started(self, state: RunState, _fact: Any) -> None:
        self._started.add((state.workflow_id,))

    def _run_completed(self, state: RunState, fact: Any) -> None:
        self._completed.add((state.workflow_id,))
        self._runs.record(fact.duration_s, (state.workflow_id, "completed"))

    def _run_failed(self, state: RunState, _fact: Any) -> None:
        self._failed.add((state.workflow_id,))
        self._ended(state, "failed")

    def _run_cancelled(self, state: RunState, _fact: Any) -> None:
        self._cancelled.add((state.workflow_id,))
        self._ended(state, "cancelled")

    def _stage_retrying(self, state: RunState, fact: Any) -> None:
        self._retried.add((state.workflow_id, fact.stage_id, fact.cause))

    def _stage_failed(self, state: RunState, fact: Any) -> None:
        self._stages_failed.add((state.workflow_id, fact.stage_id))

    def _ended(self, state: RunState, outcome: str) -> None:
        if state.started_at is not None and state.ended_at is not None:
            duration_s = (state.ended_at - state.started_at).total_seconds()
            self._runs.record(max(duration_s, 0.0), (state.workflow_id, outcome))

    # -- the store -----------------------------------------------------------------------------------------------------

    def batch_sent(self, appends: Sequence[Append], started_ns: int, ended_ns: int, error: Exception | None) -> None:
        """A `BatchObserver`."""
        self._batch_sizes.record(len(appends))
        self._batches.record((ended_ns - started_ns) * NS, _OK if error is None else _ERROR)

    def claimed(self, waited_s: float) -> None:
        """A run was claimed that had been due for so long."""
        self._claims.record(waited_s)

    # -- the session ---------------------------------------------------------------------------------------------------

    def renewed(self, duration_s: float, *, alive: bool) -> None:
        """A heartbeat was answered."""
        self._renewals.add(_OK if alive else _REFUSED)
        self._renewal_durations.record(duration_s)

    def not_renewed(self) -> None:
        """A heartbeat had no answer."""
        self._renewals.add(_ERROR)

    def lease_lost(self) -> None:
        """A session ended while it was held."""
        self._losses.add()

    def loop_answered(self, lag_s: float) -> None:
        """The event loop has answered a heartbeat."""
        self._lag.record(lag_s)

    # -- gauges --------------------------------------------------------------------------------------------------------

    def watch(self, source: Source) -> Callable[[], None]:
        """Ask this one too, until what is returned is called."""
        self._sources.append(source)
        return lambda: self._sources.remove(source)

    def _counter(self, name: MetricName) -> Totals:
        totals = Totals(name)
        if not name.attributes:
            totals.start()

        def observe(_options: CallbackOptions) -> Iterable[Observation]:
            return [self._observation(value, attributes_of(name, key)) for key, value in list(totals.sums.items())]

        self._meter.create_observable_counter(name.name, [observe], name.unit, name.meaning)
        return totals

    def _histogram(self, name: MetricName) -> Distribution:
        if self._own:
            distribution = Distributions(name)
            self.distributions.append(distribution)
            return distribution
        instrument = self._meter.create_histogram(
            name.name, name.unit, name.meaning, explicit_bucket_boundaries_advisory=list(name.bounds)
        )
        return RecordedDistribution(name, instrument)

    def _read(self, name: MetricName) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observe(_options: CallbackOptions) -> Iterable[Observation]:
            # A process that drives nothing says so; and without a single point our scope would not be exported at all.
            found: dict[Key, float] = {(): 0.0} if name is names.ACTORS else {}
            for source in tuple(self._sources):
                for metric, key, value in source():
                    if metric is name:
                        before = found.get(key, 0.0)
                        found[key] = max(before, value) if name.shared else before + value
            return [self._observation(value, attributes_of(name, key)) for key, value in found.items()]

        return observe


_OK = ("ok",)
_ERROR = ("error",)
_REFUSED = ("refused",)


# -- whether anybody meters --------------------------------------------------------------------------------------------

_meters: Meters | None = None


def use_meters(meters: Meters | None) -> None:
    """Have clients that are opened from now on count into these, or into none; for whoever sets up the exporting."""
    global _meters  # noqa: PLW0603 - a process has one meter provider, and this goes with it
    _meters = meters


def find_meters() -> Meters | None:
    """What this process counts into; None when its program has set up no meter provider of the OpenTelemetry SDK."""
    if _meters is None:
        api, sdk = sys.modules.get("opentelemetry.metrics"), sys.modules.get("opentelemetry.sdk.metrics")
        if api is None or sdk is None:
            return None
        provider = api.get_meter_provider()
        if isinstance(provider, sdk.MeterProvider):
            use_meters(Meters(provider))
    return _meters


def timed(inner: Middleware | None, meters: Meters | None) -> Middleware | None:
    """A middleware of kernels that takes the time of commands if somebody meters; around another, if given."""
    if meters is None:
        return inner
    record = meters.commands.record

    async def time(command: Command[Any], handle: Callable[[Command[Any]], Awaitable[Any]], /) -> Any:
        began = perf_counter()
        try:
            result = await (handle(command) if inner is None else inner(command, handle))
        except Exception as error:
            record(perf_counter() - began, (command.type, type(error).__name__))
            raise
        took_s, outcome = perf_counter() - began, "ok"
        if isinstance(result, ExecuteJobResult):
            outcome = "superseded" if result.ghost else "retrying" if result.retryable else result.outcome
        record(took_s, (command.type, outcome))
        return result

    return time
