"""Which addresses a tool may connect to for a caller from outside: a guard against server-side request forgery.

In: a host and port, as in a URL. Out: the IP addresses to connect to, all of them allowed. A client must connect to
these addresses and not resolve the name again, also after a redirect.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

IpAddress: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
MAX_HOST = 253  # characters of a DNS name
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


class AddressRefusedError(OSError):
    """A host has no address that may be reached. The message names the host, not its addresses."""


class Resolver(Protocol):
    """Resolves a host to IP addresses. Raises OSError if the name is unknown."""

    async def __call__(self, host: str, port: int) -> Sequence[str]: ...


async def system_resolver(host: str, port: int) -> Sequence[str]:
    """The addresses that the operating system finds, in its order."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


@dataclass(frozen=True, slots=True)
class AddressGuard:
    """Resolves hosts and passes on only public addresses.

    private_hosts: hosts that may have private addresses too, "host" or "host:port"; an operator names them.
    """

    private_hosts: Collection[str] = ()
    resolve: Resolver = system_resolver

    async def addresses(self, host: str, port: int) -> list[str]:
        """The addresses of a host that may be reached. Raises AddressRefusedError if there is none."""
        plain = host.strip("[]").rstrip(".").lower()
        if not plain or len(plain) > MAX_HOST:
            raise AddressRefusedError(f"host {host[:60]!r} is not a valid name")
        try:
            found = await self.resolve(plain, port)
        except (OSError, UnicodeError) as error:
            raise AddressRefusedError(f"host {host!r} cannot be resolved") from error
        if {plain, f"{plain}:{port}"} & set(self.private_hosts):
            return list(found)
        if allowed := [each for each in found if is_public(each)]:
            return allowed
        raise AddressRefusedError(f"host {host!r} has no public address; private addresses are not reached")


def is_public(address: str) -> bool:
    """Whether an IP address is reachable from everywhere, also the IPv4 address inside an IPv6 one."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    return all(each.is_global and not each.is_multicast for each in (found, *_embedded(found)))


def _embedded(address: IpAddress) -> list[ipaddress.IPv4Address]:
    """The IPv4 addresses that an IPv6 address leads to: mapped, 6to4, Teredo and NAT64."""
    if isinstance(address, ipaddress.IPv4Address):
        return []
    inside = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    if address in _NAT64:
        inside.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return [each for each in inside if each is not None]
