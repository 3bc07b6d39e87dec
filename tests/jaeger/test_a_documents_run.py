"""A run of the documents pipeline as Jaeger has it: one complete tree, under the names that the reference gives."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from runtime import Supervisor
from runtime.bootstrap import migrate_database
from runtime.config import Settings
from runtime.demo.documents import Document, app, documents
from telemetry import names
from tests.jaeger.server import Jaeger
from tests.otlp_records import Span
from tests.span_tree import as_text, outside_of, tree_of

pytestmark = pytest.mark.anyio

# Without appends: how many attempts share a statement is chance.
PICTURE = """\
run documents  outcome=completed
├─ run.create  outcome=ok
├─ job.execute  attempt=1  outcome=completed
│  └─ stage extract  attempt=1  outcome=completed
├─ job.execute  attempt=1  outcome=completed
│  └─ stage keywords  attempt=1  outcome=completed
├─ job.execute  attempt=1  outcome=completed
│  └─ stage language  attempt=1  outcome=completed
├─ job.execute  attempt=1  outcome=completed
│  └─ stage statistics  attempt=1  outcome=completed
└─ job.execute  attempt=1  outcome=completed
   └─ stage report  attempt=1  outcome=completed"""


@pytest.fixture
def provider(jaeger: Jaeger, monkeypatch: pytest.MonkeyPatch) -> Iterator[TracerProvider]:
    provider = TracerProvider(resource=Resource({"service.name": "documents"}), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{jaeger.http_endpoint}/v1/traces")))
    # A process can set its provider once; a test gives it back.
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    yield provider
    provider.shutdown()


async def run_of(text: str, folder: Path, database_url: str) -> str:
    """Its id, when it has completed and the supervisor has left."""
    await migrate_database(Settings(database_url=database_url))
    file = folder / "a.txt"
    file.write_text(text)
    async with Supervisor(app, database=database_url) as supervisor:
        run = await supervisor.start(documents, Document(path=str(file)))
        await run.result()
    return run.id


def everything_is_there(spans: tuple[Span, ...]) -> bool:
    """The root, the creation, and an attempt of every stage; then at least one append."""
    found = Counter(span.name for span in spans)
    stages = {names.STAGE.of(stage_id) for stage_id in documents.stage_ids()}
    return stages | {"run documents", "run.create", "append"} <= found.keys() and found["job.execute"] == len(stages)


def by_stage(span: Span) -> Any:
    """As the workflow has them: stages of one group begin in any order."""
    stage_id = span.attributes.get(names.STAGE_ID)
    return (0, "") if stage_id is None else (1 + documents.group_of(stage_id), stage_id)


async def test_a_documents_run_is_one_complete_tree_in_jaeger(
    jaeger: Jaeger, provider: TracerProvider, database_url: str, tmp_path: Path
) -> None:
    run_id = await run_of("the engine of the lease", tmp_path, database_url)
    provider.force_flush()

    [trace_id] = jaeger.wait_for_trace_ids("documents", {names.RUN_ID: run_id})
    spans = jaeger.wait_for_trace(trace_id, everything_is_there)
    root = tree_of(spans)
    picture = tree_of((span for span in spans if span.name != names.APPEND.name), by_stage)

    assert outside_of(root) == []
    assert as_text([picture], show=[names.STAGE_ATTEMPT, names.OUTCOME]) == PICTURE
    assert {node.attributes[names.RUN_ID] for node in root.walk()} == {run_id}
    assert {node.attributes[names.WORKFLOW_ID] for node in picture.walk()} == {"documents"}
    assert {node.span.scope for node in root.walk()} == {names.SCOPE}
