"""What schemas refuse is stored nowhere, whatever the store."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, Field, field_validator

from kernel import InvalidConfig, RunFailed, StageContext, WorkflowBuilder, stage
from tests.runtime.shared_store import SharedStore

pytestmark = pytest.mark.anyio


class Limits(BaseModel):
    pages: int = Field(default=3, ge=1)


class Words(BaseModel):
    number: int


class Whole(BaseModel):
    count: Words

    @field_validator("count")
    @classmethod
    def some(cls, count: Words) -> Words:
        if count.number < 1:
            raise ValueError("no words")
        return count


def counting(number: Any) -> Any:
    @stage("count")
    async def body(_ctx: StageContext[None, Limits]) -> Words:
        return Words.model_construct(number=number)

    return WorkflowBuilder("counting", input=None, output=Whole).parallel([body]).build()


@pytest.mark.parametrize("number", ["many", -1], ids=["of the stage", "of the workflow"])
async def test_an_output_that_its_schema_refuses_is_not_stored(store: SharedStore, number: Any):
    workflow = counting(number)
    async with store.supervisor(workflow) as supervisor:
        run = await supervisor.start(workflow, None)
        with pytest.raises(RunFailed) as failed:
            await run.result(timeout=20)
        info = await run.describe()
    assert (failed.value.error.type, failed.value.attempt) == ("InvalidOutput", 1)
    assert (info.status, info.output, [shown.output for shown in info.stages or ()]) == ("FAILED", None, [None])


@pytest.mark.parametrize("config", [{"count": {"pages": 0}}, {"count": {"pages": "x"}}, {"nowhere": {"pages": 1}}])
async def test_a_wrong_configuration_creates_no_run(store: SharedStore, config: Any):
    workflow = counting(1)
    async with store.client(workflow) as client:
        with pytest.raises(InvalidConfig):
            await client.start(workflow, None, config=config, idempotency_key="k")
        assert (await client.list_runs()).items == []
        assert await client.find(workflow, "k") is None
