"""Who decided what, and why: remarks that last, made with the run, in a body, and after the end.

`.venv/bin/python examples/annotations.py`

An annotation is a value under a key in the history of a run. From a terminal: `leasehold annotations RUN --prefix
decision.`, and `leasehold annotate RUN review.score 4.5 --stage judge --actor user:ada`.
"""

import anyio
from pydantic import BaseModel

from kernel import Actor, Annotation, Decision, Event, StageContext, Trigger, TypedKey, WorkflowBuilder, plugin, stage
from runtime import App, Supervisor

SCORE = TypedKey("review.score", float)  # a key of one's own; its name and its type go together
LINES = TypedKey("claim.lines", int)
JUDGE = Actor(kind="agent", id="judge", version="2")
ADA = Actor(kind="user", id="ada")


class Claim(BaseModel):
    euros: float
    lines: list[str]


@stage("judge")
async def judge(ctx: StageContext[Claim]) -> bool:
    small = ctx.input.euros < 100
    ctx.annotate(LINES, len(ctx.input.lines), scope="document", scope_id="invoice.pdf")
    ctx.annotate(
        {Decision.outcome: "refund" if small else "refuse", Decision.confidence: 0.9 if small else 0.6},
        actor=JUDGE,
        emit_event=not small,  # sinks are told of those that say so
    )
    return small


@plugin("supervision", on=["annotation.created"])
async def tell_supervision(event: Event) -> None:
    if event.type == "annotation.created":
        print(f"told: {event.key} = {event.value}")


claims = WorkflowBuilder("claims", input=Claim, output=bool).pipe(judge).build()
app = App(workflows=[claims], plugins=[tell_supervision])


def line(remark: Annotation[object]) -> str:
    return f"{remark.key} = {remark.value}, by {remark.actor or 'nobody in particular'}"


async def main(database: str | None = None) -> None:
    async with Supervisor(app, database=database) as supervisor:
        # Exists exactly when the run does.
        run = await supervisor.start(claims, Claim(euros=250, lines=["a coat"]), annotations={Trigger.source: "mail"})
        await run.result()
        # Anybody may, at any time; with an idempotency key once, however often it is sent.
        for _ in range(2):
            await run.annotate(SCORE, 4.5, stage=judge, actor=ADA, idempotency_key="review 7")

        for remark in await run.annotations():
            print(line(remark))
        for sure in await run.annotations(key=Decision.confidence, actor_kind="agent"):  # typed: a float
            print(f"{sure.value:.0%} sure in attempt {sure.attempt} of {sure.stage_id}")
        print([remark.key for remark in await run.annotations(key_prefix="decision.", stage=judge, attempt=1)])
        print([remark.scope_id for remark in await run.annotations(scope="document")])


if __name__ == "__main__":
    anyio.run(main)
