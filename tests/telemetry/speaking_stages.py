"""Stages that log by the usual means, which a child interpreter finds by importing this module."""

from __future__ import annotations

import logging

import anyio.lowlevel
import structlog

from kernel import StageContext, stage


def speak() -> str:
    structlog.get_logger("mine").info("by structlog", n=1)
    logging.getLogger("mine").info("by logging")
    return "spoke"


@stage("in-the-loop")
async def in_the_loop(ctx: StageContext[None]) -> str:
    await anyio.lowlevel.checkpoint()
    return speak()


@stage("in-a-thread")
def in_a_thread(ctx: StageContext[None]) -> str:
    return speak()


@stage("in-a-child", isolation="process")
def in_a_child(ctx: StageContext[None]) -> str:
    return speak()
