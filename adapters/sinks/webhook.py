"""A webhook: each event is posted to a URL as JSON, signed, and taken when the answer is 2xx.

Headers tell what it is without reading the body: `Leasehold-Event` the type, `Leasehold-Delivery` run and number, by
which a receiver knows an event that comes again, and `Leasehold-Signature` (see `adapters.sinks.signatures`). Redirects
are not followed, proxies of the environment not used: what is signed goes to the configured host or nowhere.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

from adapters.sinks.addresses import AddressRefused, Network, networks
from adapters.sinks.signatures import SIGNATURE_HEADER, sign
from kernel.errors import InvalidCommand, RetryAfter
from kernel.events import Event, EventType, event_json, event_types
from kernel.ports.sinks import Sink

if TYPE_CHECKING:
    import httpcore

__all__ = ["AddressRefused", "WebhookRefused", "WebhookSink", "webhook"]

SECRET_MIN = 16
ANSWER_MAX = 65_536
"""Bytes of an answer that are read at most."""
_RETRY_LATER = (413, 429, 503)
_OURS = ("content-type", "user-agent", "host", "content-length", "transfer-encoding")


class WebhookRefused(Exception):
    """The receiver answered, and not with 2xx."""

    def __init__(self, status: int) -> None:
        self.status = status
        super().__init__(f"the receiver answered {status}")


def webhook(
    url: str,
    *,
    secret: str,
    name: str = "webhook",
    events: Collection[EventType] | None = None,
    headers: Mapping[str, str] | None = None,
    allow: Iterable[str] = (),
    max_retries: int = 20,
    timeout: timedelta = timedelta(seconds=10),
    at_once: int = 8,
) -> Sink:
    """Post events to `url`, for `App(sinks=[webhook("https://…", secret=…)])`.

    `secret` signs them, `headers` are sent along, `allow` names networks that are not public and may be reached all the
    same ("127.0.0.0/8"). An event is tried `max_retries` times, for about an hour; an answer's Retry-After is heeded.

    Raises: InvalidCommand, naming the argument that cannot be used.
    """
    checked = dict(headers or {})
    _check_url(url)
    _check_headers(checked)
    allowed = networks(allow)
    if len(secret) < SECRET_MIN:
        raise InvalidCommand(
            f"The secret of a webhook must have at least {SECRET_MIN} characters, and has {len(secret)}.",
            field="secret",
            hint="Make one: python -c 'import secrets; print(secrets.token_urlsafe(32))'",
        )
    return Sink(
        name=name,
        open=lambda: WebhookSink(
            url, secret=secret, headers=checked, allowed=allowed, timeout=timeout, at_once=at_once
        ),
        events=None if events is None else event_types(f'Sink "{name}"', events, field="events"),
        max_retries=max_retries,
        timeout=timeout,
        at_once=at_once,
    )


def _check_url(url: str) -> None:
    problem = None
    try:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            problem = "it must begin with https:// or http:// and name a host"
        elif parts.username or parts.password:
            problem = "it must not contain a user or password: send them as a header"
        elif not url.isascii() or any(ord(c) <= 32 for c in url):
            problem = "it must be ASCII without spaces"
        else:
            _ = parts.port
    except ValueError as error:
        problem = str(error)
    if problem is not None:
        raise InvalidCommand(f"The URL of the webhook cannot be used: {problem}.", field="url")


def _check_headers(headers: Mapping[str, str]) -> None:
    for name, value in headers.items():
        ours = name.lower() in _OURS or name.lower().startswith("leasehold-")
        if ours or not name.isascii() or not value.isascii() or not (name + value).isprintable():
            reason = "it is ours" if ours else "only printable ASCII can be sent"
            raise InvalidCommand(f'The header "{name}" of the webhook cannot be set: {reason}.', field="headers")


class WebhookSink:
    """`EventSink` over HTTP; an asynchronous context manager, on either event loop."""

    def __init__(
        self,
        url: str,
        *,
        secret: str,
        headers: Mapping[str, str],
        allowed: Sequence[Network],
        timeout: timedelta,
        at_once: int,
    ) -> None:
        self._url = url
        self._secret = secret
        self._headers = [(name.encode(), value.encode()) for name, value in headers.items()]
        self._timeouts = dict.fromkeys(("connect", "read", "write", "pool"), timeout.total_seconds())
        self._allowed = allowed
        self._at_once = at_once
        self._pool: httpcore.AsyncConnectionPool | None = None

    async def __aenter__(self) -> Self:
        try:
            import httpcore

            from adapters.sinks.guarded_network import GuardedNetwork
        except ImportError as error:
            raise InvalidCommand(
                "A webhook needs an HTTP client that is not installed.",
                field="sinks",
                hint="pip install 'leasehold[http]'",
            ) from error
        network = GuardedNetwork(self._allowed)
        self._pool = httpcore.AsyncConnectionPool(network_backend=network, max_connections=self._at_once)
        await self._pool.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.__aexit__(kind, error, trace)

    async def publish(self, event: Event, /) -> None:
        """Post the event.

        Raises: RetryAfter, when the receiver says how long; WebhookRefused for any other answer; AddressRefused; what
        the client raises when it cannot connect or waits too long.
        """
        assert self._pool is not None, "it is used inside async with"
        body = event_json(event)
        headers = [
            (b"Host", _host(self._url)),
            (b"Content-Type", b"application/json"),
            (b"Content-Length", b"%d" % len(body)),
            (b"User-Agent", b"leasehold"),
            (b"Leasehold-Event", event.type.encode()),
            (b"Leasehold-Delivery", f"{event.run_id}:{event.seq}".encode()),
            (SIGNATURE_HEADER.encode(), sign(self._secret, body).encode()),
            *self._headers,
        ]
        extensions = {"timeout": self._timeouts}
        async with self._pool.stream("POST", self._url, headers=headers, content=body, extensions=extensions) as answer:
            if _is_short(answer):
                # Read, so that the connection can be used again; what is longer ends with the connection.
                await answer.aread()
        if not 200 <= answer.status < 300:
            raise _refusal(answer)


def _host(url: str) -> bytes:
    return urlsplit(url).netloc.encode()


def _is_short(answer: httpcore.Response) -> bool:
    """Whether the body is announced, and worth reading."""
    lengths = [value for name, value in answer.headers if name.lower() == b"content-length"]
    return answer.status == 204 or (len(lengths) == 1 and lengths[0].isdigit() and int(lengths[0]) <= ANSWER_MAX)


def _refusal(answer: httpcore.Response) -> Exception:
    values = [value for name, value in answer.headers if name.lower() == b"retry-after"]
    delay = _delay(values[0].decode("ascii", "replace")) if values and answer.status in _RETRY_LATER else None
    if delay is None:
        return WebhookRefused(answer.status)
    return RetryAfter(delay, f"the receiver answered {answer.status}")


def _delay(text: str) -> timedelta | None:
    """What a Retry-After asks for: seconds, or a date (RFC 9110, 10.2.3); None when it is neither."""
    text = text.strip()
    if text.isascii() and text.isdigit():
        return timedelta(seconds=min(int(text[:9]), 86_400))
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return max(aware - datetime.now(UTC), timedelta(0))
