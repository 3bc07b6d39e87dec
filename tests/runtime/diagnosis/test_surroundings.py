"""What lies around a database: stores of large payloads, there and not there."""

from __future__ import annotations

import socket
from pathlib import Path

import anyio
import pytest

from kernel.ports.diagnosis import Check, CheckSkipped, Finding
from runtime.config import Settings
from runtime.diagnosis.examination import look
from runtime.diagnosis.surroundings import surrounding_checks

pytestmark = pytest.mark.anyio


async def blobs(url: str) -> Finding:
    first, _ = surrounding_checks(Settings(blob_url=url), {})
    return await look(first)


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


async def test_a_folder_for_payloads_is_there_or_will_be_made(tmp_path: Path) -> None:
    there = await blobs(f"file://{tmp_path}")
    ahead = await blobs(f"file://{tmp_path}/not/yet")

    assert (there.status, ahead.status) == ("ok", "warning")
    assert list(tmp_path.iterdir()) == []


async def test_a_place_for_payloads_that_is_no_folder_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")

    found = await blobs(f"file://{tmp_path}/file/below")

    assert (found.status, "is no folder" in found.found) == ("problem", True)


async def test_a_bucket_that_cannot_be_reached_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "anything")

    found = await blobs(f"s3://bucket/prefix?endpoint=http://127.0.0.1:{free_port()}&region=x")

    assert (found.status, "s3://bucket/prefix" in found.found) == ("problem", True)
    assert "LEASEHOLD_BLOB_URL" in (found.advice or "")


async def test_whatever_goes_wrong_in_a_check_is_a_finding() -> None:
    async def skip() -> Finding:
        raise CheckSkipped("Not here.")

    async def break_down() -> Finding:
        raise ZeroDivisionError("oops")

    async def hang() -> Finding:
        await anyio.sleep_forever()
        raise AssertionError

    found = [await look(Check("x", work), deadline_s=0.05) for work in (skip, break_down, hang)]

    assert [f.status for f in found] == ["skipped", "problem", "problem"]
    assert "ZeroDivisionError: oops" in found[1].found
    assert found[2].found == "No answer within 0.05 s."
