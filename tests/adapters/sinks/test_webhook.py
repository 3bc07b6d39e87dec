"""Webhooks, against a real server on this machine."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from ipaddress import ip_address
from typing import Any

import anyio
import httpcore
import pytest

from adapters.sinks import AddressRefused, WebhookRefused, WebhookSink, verify, webhook
from adapters.sinks.addresses import is_allowed, networks
from kernel import ErrorInfo, Event, InvalidCommand, RetryAfter
from kernel.events import RunCompleted, RunFailed
from tests.adapters.sinks.receiver import Receiver, Request, receiving

pytestmark = pytest.mark.anyio

SECRET = "sixteen or more characters"
HERE = ("127.0.0.0/8",)
RUN = "019a0000-0000-7000-8000-000000000000"


def an_event(seq: int = 7) -> Event:
    at = datetime(2025, 1, 1, tzinfo=UTC)
    return RunCompleted(
        run_id=RUN, seq=seq, at=at, output={"text": "ß"}, duration_s=1.5, total_cost="0", total_tokens=0
    )


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as receiver:
        yield receiver


@asynccontextmanager
async def opened(url: str, **options: Any) -> AsyncIterator[WebhookSink]:
    made = webhook(url, secret=SECRET, **{"allow": HERE, **options}).open()
    assert isinstance(made, WebhookSink)
    async with made as sink:
        yield sink


# -- what is sent ------------------------------------------------------------------------------------------------------


async def test_an_event_is_posted_as_json_with_what_tells_it_apart(receiver: Receiver) -> None:
    async with opened(receiver.url, headers={"Authorization": "Bearer abc"}) as sink:
        await sink.publish(an_event())

    (request,) = receiver.requests
    assert request.line == "POST /hook?to=me HTTP/1.1"
    assert request.headers["host"] == f"127.0.0.1:{receiver.port}"
    assert request.headers["content-type"] == "application/json"
    assert request.headers["authorization"] == "Bearer abc"
    assert request.headers["leasehold-event"] == "run.completed"
    assert request.headers["leasehold-delivery"] == f"{RUN}:7"
    assert request.json["output"] == {"text": "ß"}
    assert (request.json["run_id"], request.json["seq"], request.json["type"]) == (RUN, 7, "run.completed")


async def test_a_traceback_is_not_sent(receiver: Receiver) -> None:
    error = ErrorInfo(type="ValueError", message="no", traceback="line 1", retryable=True)
    async with opened(receiver.url) as sink:
        await sink.publish(RunFailed(run_id=RUN, seq=1, at=datetime.now(UTC), error=error))

    assert receiver.requests[0].json["error"] == {"type": "ValueError", "message": "no", "retryable": True}


async def test_the_receiver_can_tell_who_sent_it_and_when(receiver: Receiver) -> None:
    async with opened(receiver.url) as sink:
        await sink.publish(an_event())

    (request,) = receiver.requests
    signature = request.headers["leasehold-signature"]
    assert verify(SECRET, signature, request.body)
    assert not verify(SECRET + "!", signature, request.body)
    assert not verify(SECRET, signature, request.body + b" ")


async def test_connections_are_used_again(receiver: Receiver) -> None:
    async with opened(receiver.url) as sink:
        for seq in range(1, 4):
            await sink.publish(an_event(seq))

    assert [request.json["seq"] for request in receiver.requests] == [1, 2, 3]
    assert receiver.connections == 1


# -- what is answered --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 400, 404, 410, 500, 503])
async def test_another_answer_than_2xx_is_a_refusal(receiver: Receiver, status: int) -> None:
    receiver.answer = lambda _request: (status, {"Location": receiver.url}, b"no")
    async with opened(receiver.url) as sink:
        with pytest.raises(WebhookRefused, match=str(status)) as refused:
            await sink.publish(an_event())

    assert refused.value.status == status
    assert len(receiver.requests) == 1, "a redirect is not followed"


@pytest.mark.parametrize("status", [429, 503])
async def test_a_receiver_says_how_long_to_wait(receiver: Receiver, status: int) -> None:
    receiver.answer = lambda _request: (status, {"Retry-After": "120"}, b"")
    async with opened(receiver.url) as sink:
        with pytest.raises(RetryAfter) as asked:
            await sink.publish(an_event())

    assert asked.value.delay == timedelta(seconds=120)


async def test_a_receiver_says_until_when_to_wait(receiver: Receiver) -> None:
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
    receiver.answer = lambda _request: (503, {"Retry-After": later}, b"")
    async with opened(receiver.url) as sink:
        with pytest.raises(RetryAfter) as asked:
            await sink.publish(an_event())

    assert timedelta(seconds=60) < asked.value.delay <= timedelta(seconds=90)


@pytest.mark.parametrize("text", ["soon", "-3", "1e9", "٣"])
async def test_a_wait_that_makes_no_sense_is_an_ordinary_refusal(receiver: Receiver, text: str) -> None:
    receiver.answer = lambda _request: (503, {"Retry-After": text}, b"")
    async with opened(receiver.url) as sink:
        with pytest.raises((WebhookRefused, RetryAfter)) as refused:
            await sink.publish(an_event())

    assert isinstance(refused.value, WebhookRefused)


async def test_an_endless_answer_is_not_read_to_its_end(receiver: Receiver) -> None:
    def endless(_request: Request) -> tuple[int, dict[str, str], bytes]:
        return 200, {"Content-Length": str(10**12)}, b"x" * 200_000

    receiver.answer = endless
    async with opened(receiver.url) as sink:
        with anyio.fail_after(5):
            await sink.publish(an_event())


async def test_a_receiver_that_is_away_is_an_error(receiver: Receiver) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/"
    async with opened(url) as sink:
        with pytest.raises(httpcore.ConnectError):
            await sink.publish(an_event())


# -- where it may go ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "[::1]", "10.1.2.3", "169.254.169.254", "0.0.0.0", "2130706433"]
)
async def test_what_is_not_public_is_refused_before_anybody_connects(receiver: Receiver, host: str) -> None:
    async with opened(f"http://{host}:{receiver.port}/", allow=()) as sink:
        with pytest.raises(AddressRefused, match="not a public one") as refused:
            await sink.publish(an_event())

    assert refused.value.host
    assert (receiver.connections, receiver.requests) == (0, [])


@pytest.mark.parametrize(
    "text, public",
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1:248:1893:25c8:1946", True),
        ("127.0.0.1", False),
        ("10.0.0.1", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("240.0.0.1", False),
        ("::1", False),
        ("::", False),
        ("fe80::1", False),
        ("fc00::1", False),
        ("ff02::1", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:93.184.216.34", True),
        ("64:ff9b::7f00:1", False),
        ("64:ff9b::5db8:d822", True),
        ("2002:7f00:1::", False),
        ("2001:0:4136:e378:8000:63bf:80ff:fffe", False),
    ],
)
def test_an_address_is_public_or_not_wherever_it_is_hidden(text: str, public: bool) -> None:  # noqa: FBT001
    assert is_allowed(ip_address(text), ()) is public


def test_a_network_that_is_named_is_allowed_and_no_other() -> None:
    allowed = networks(["10.0.0.0/8", "fd00::/8"])

    assert is_allowed(ip_address("10.9.9.9"), allowed)
    assert is_allowed(ip_address("::ffff:10.9.9.9"), allowed)
    assert is_allowed(ip_address("fd00::1"), allowed)
    assert not is_allowed(ip_address("192.168.0.1"), allowed)


async def test_a_name_is_resolved_once_and_what_was_resolved_is_connected_to(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    real = anyio.getaddrinfo

    async def answering_differently(host: str, port: int, **options: Any) -> Any:
        if host == "hooks.example":
            asked.append(host)
            address = "127.0.0.1" if len(asked) == 1 else "127.0.0.2"
            return await real(address, port, **options)
        return await real(host, port, **options)

    monkeypatch.setattr(anyio, "getaddrinfo", answering_differently)
    async with opened(f"http://hooks.example:{receiver.port}/") as sink:
        await sink.publish(an_event())

    assert asked == ["hooks.example"]
    assert receiver.requests[0].headers["host"] == f"hooks.example:{receiver.port}"


async def test_a_name_that_leads_out_and_in_is_refused(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    async def both(host: str, port: int, **_options: Any) -> Any:
        family, kind = socket.AF_INET, socket.SOCK_STREAM
        return [(family, kind, 6, "", (address, port)) for address in ("93.184.216.34", "127.0.0.1")]

    monkeypatch.setattr(anyio, "getaddrinfo", both)
    async with opened(f"http://hooks.example:{receiver.port}/", allow=()) as sink:
        with pytest.raises(AddressRefused, match=r"127\.0\.0\.1"):
            await sink.publish(an_event())


# -- what is refused at once -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, field",
    [
        ({"url": "ftp://example.com/"}, "url"),
        ({"url": "https://"}, "url"),
        ({"url": "https://user:pw@example.com/"}, "url"),
        ({"url": "https://example.com:99999/"}, "url"),
        ({"url": "https://example.com/a b"}, "url"),
        ({"url": "https://example.com/\r\nX: y"}, "url"),
        ({"secret": "short"}, "secret"),
        ({"headers": {"Host": "other"}}, "headers"),
        ({"headers": {"Leasehold-Event": "x"}}, "headers"),
        ({"headers": {"X": "a\r\nY: b"}}, "headers"),
        ({"allow": ["here"]}, "allow"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(arguments: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidCommand) as refused:
        webhook(**{"url": "https://example.com/", "secret": SECRET, **arguments})

    assert refused.value.field == field


def test_a_sink_says_how_patient_to_be_with_it() -> None:
    sink = webhook("https://example.com/", secret=SECRET, name="orders", events=["run.completed"], max_retries=5)

    assert (sink.name, sink.events, sink.max_retries) == ("orders", {"run.completed"}, 5)


@pytest.mark.parametrize(
    "field, given",
    [
        ("events", {"events": ["run.complete"]}),
        ("events", {"events": ["log"]}),
        ("events", {"events": "run.completed"}),
        ("max_retries", {"max_retries": 0}),
    ],
)
def test_what_it_can_never_be_given_and_bounds_without_sense_are_refused(field: str, given: dict[str, Any]) -> None:
    with pytest.raises(InvalidCommand) as refused:
        webhook("https://example.org/", secret="s" * 32, **given)

    assert refused.value.field == field
