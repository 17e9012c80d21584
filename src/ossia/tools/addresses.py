"""Which addresses a tool may connect to for a caller from outside: a guard against server-side request forgery.

In: a host and port, as in a URL. Out: the IP addresses to connect to, all of them allowed. A client must connect to
these addresses and not resolve the name again, also after a redirect.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

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
    allow_private: all hosts may, for a user at a terminal.
    """

    private_hosts: Collection[str] = ()
    resolve: Resolver = system_resolver
    allow_private: bool = False

    def is_trusted(self, host: str, port: int) -> bool:
        """Whether an operator or user allowed this host's private addresses."""
        plain = _plain(host)
        return self.allow_private or not {plain, f"{plain}:{port}"}.isdisjoint(self.private_hosts)

    async def addresses(self, host: str, port: int) -> list[str]:
        """The addresses of a host that may be reached. Raises AddressRefusedError if there is none."""
        plain = _plain(host)
        if not plain or len(plain) > MAX_HOST:
            raise AddressRefusedError(f"host {host[:60]!r} is not a valid name")
        try:
            found = await self.resolve(plain, port)
        except (OSError, UnicodeError) as error:
            raise AddressRefusedError(f"host {host!r} cannot be resolved") from error
        if self.is_trusted(host, port):
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
    if isinstance(found, ipaddress.IPv4Address):
        return found.is_global and not found.is_multicast
    if (mapped := found.ipv4_mapped) is not None:
        return is_public(str(mapped))
    if found in _NAT64:
        return is_public(str(ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)))
    inside = [each for each in (found.sixtofour, *(found.teredo or ())) if each is not None]
    is_usable = found.is_global and not (found.is_multicast or found.is_reserved or found.is_site_local)
    return is_usable and all(is_public(str(each)) for each in inside)


def _plain(host: str) -> str:
    return host.strip("[]").rstrip(".").lower()
