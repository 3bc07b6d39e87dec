"""The network of the HTTP client, which connects only to addresses that were looked at. Imports the client."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

import httpcore

from adapters.sinks.addresses import Network, resolved

__all__ = ["GuardedNetwork"]


class GuardedNetwork(httpcore.AsyncNetworkBackend):
    """Resolves a host once and connects to one of the addresses found; TLS goes on to check the host's name."""

    def __init__(self, allowed: Sequence[Network]) -> None:
        self._allowed = allowed
        # The client defines it twice, once for programs without anyio, so that a type checker sees neither.
        self._network = cast("httpcore.AsyncNetworkBackend", httpcore.AnyIOBackend())

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the client's own signature
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        last: Exception | None = None
        try:
            addresses = await resolved(host, port, self._allowed)
        except OSError as error:
            raise httpcore.ConnectError(f'"{host}" cannot be resolved: {error}') from error
        for address in addresses:
            try:
                return await self._network.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                last = error
        raise last or httpcore.ConnectError(f'"{host}" has no address')

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,  # noqa: ASYNC109 - the client's own signature
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        raise httpcore.ConnectError("a webhook is not sent to a Unix socket")

    async def sleep(self, seconds: float) -> None:
        await self._network.sleep(seconds)
