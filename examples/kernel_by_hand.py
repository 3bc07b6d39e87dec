"""The kernel without a runtime, one command at a time.

A supervisor sends these commands all day long. Here nothing happens that a line below does not ask for: no loop, no
timer, no task of its own. Everything is kept in memory.
"""

import os
from datetime import timedelta

import anyio
from pydantic import BaseModel

from kernel import ClaimPendingRuns, CreateRun, ExecuteJob, StageContext, TransitionRun, WorkflowBuilder, stage
from kernel.journal import fold_stored
from kernel.model.facts import decode_facts
from kernel.ports.persistence import SessionInfo
from runtime.testing import memory_kernel


class Person(BaseModel):
    name: str


@stage("greet")
async def greet(ctx: StageContext[Person]) -> str:
    return f"hello, {ctx.input.name}"


@stage("shout")
async def shout(ctx: StageContext[str]) -> str:
    return f"{ctx.input.upper()}!"


greetings = WorkflowBuilder("greetings", input=Person, output=str).pipe(greet).pipe(shout).build()


async def main() -> None:
    # A kernel and its ports: a store, blobs, a clock, ids, the registry of workflows, and who executes bodies.
    kernel = memory_kernel(workflows=[greetings])
    store = kernel.ports.store

    # A session is a lease: for ten seconds from now, and from every renewal, what it takes is nobody else's.
    me = SessionInfo(name="by hand", hostname="localhost", pid=os.getpid())
    session_id = await store.open_session(me, [("greetings", "1")], lease=timedelta(seconds=10))

    # A run is its history. Creating one appends its first event, together with the key, so asking twice makes one.
    create = CreateRun(workflow_id="greetings", input=Person(name="Ada"), idempotency_key="ada")
    run_id = (await kernel.dispatch(create)).run_id
    print("created once:", (await kernel.dispatch(create)).run_id == run_id)

    # Taking runs that are due: a claim changes who owns a run, and appends nothing.
    claimed = (await kernel.dispatch(ClaimPendingRuns(session_id=session_id, max_claims=1))).claimed
    print("claimed:", [run.workflow_id for run in claimed])

    # Whoever owns runs renews in time. The answer says whether the lease still holds.
    print("lease holds:", (await store.renew(session_id)).alive)

    # A stage is executed in three parts: append its start, call its body, append its end with all that follows.
    for stage_id in greetings.stage_ids():
        job = ExecuteJob(run_id=run_id, stage_id=stage_id)
        print(f"{stage_id}:", (await kernel.dispatch(job)).output)
        # Sent again it answers with what is recorded; the body is not called.
        print(f"{stage_id} again:", (await kernel.dispatch(job)).output)

    # The end of the last stage has also completed the run, so there is nothing left to be done by a transition.
    print("transition:", (await kernel.dispatch(TransitionRun(run_id=run_id))).action)

    # The history: rows of one append each, and in each the facts that were decided together.
    stored = await store.load(run_id)
    for row in stored.rows:
        print(f"{row.first_seq:>2}", ", ".join(fact.type for fact in decode_facts(row.events, run_id=run_id)))
    # And the state is nothing but those facts, folded.
    print("run:", fold_stored(stored).status)
    await store.close_session(session_id)


if __name__ == "__main__":
    anyio.run(main)
