"""Which addresses a webhook may be sent to: everybody's, and of one's own networks those that were named.

A URL comes from whoever configures a webhook, and sometimes from their customers; the process that follows it stands in
a network where `http://169.254.169.254/` answers with credentials. So a name is resolved once, every address it has is
looked at, and the connection is made to an address that was looked at: a second lookup could answer differently.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import anyio

from kernel.errors import InvalidCommand

__all__ = ["AddressRefused", "Network", "is_allowed", "networks", "resolved"]

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address

_NAT64 = ip_network("64:ff9b::/96")
_LOCAL_NAT64 = ip_network("64:ff9b:1::/48")


class AddressRefused(Exception):
    """A host is, or has, an address that is not everybody's, and that was not allowed."""

    def __init__(self, host: str, address: str) -> None:
        self.host = host
        self.address = address
        super().__init__(
            f'"{host}" has the address {address}, which is not a public one. Allow its network, as in '
            'webhook(..., allow=["10.0.0.0/8"]), if that is meant.'
        )


def networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """The networks of these texts. Raises: InvalidCommand, naming the one that is none."""
    found: list[Network] = []
    for text in texts:
        try:
            found.append(ip_network(text))
        except ValueError as error:
            raise InvalidCommand(
                f'"{text}" is no network: {error}.', field="allow", hint='Write it as "10.0.0.0/8".'
            ) from None
    return tuple(found)


def is_allowed(address: Address, allowed: Sequence[Network]) -> bool:
    """Whether it is a public address, or in one of these networks."""
    meant = _embedded(address)
    if any(each in network for network in allowed for each in (address, meant)):
        return True
    return all(_is_public(each) for each in (address, meant))


def _is_public(address: Address) -> bool:
    if isinstance(address, IPv6Address) and (address in _NAT64 or address.ipv4_mapped is not None):
        # The address inside says who is meant.
        return True
    return address.is_global and not address.is_multicast and not address.is_reserved


def _embedded(address: Address) -> Address:
    """The IPv4 address that an IPv6 one leads to, or itself."""
    if isinstance(address, IPv4Address):
        return address
    if address in _NAT64 and address not in _LOCAL_NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else address)


async def resolved(host: str, port: int, allowed: Sequence[Network]) -> Sequence[str]:
    """The addresses of a host, in the order of the resolver, all of them allowed.

    Raises: AddressRefused, when one is not: a name that leads both out and in leads in. OSError, when there are none.
    """
    found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(str(sockaddr[0]).partition("%")[0] for *_, sockaddr in found))
    for text in addresses:
        if not is_allowed(ip_address(text), allowed):
            raise AddressRefused(host, text)
    return addresses
