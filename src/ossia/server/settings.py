"""What a person decides about a server; the defaults are safe on one's own machine.

In: values, from the command line or a test. Out: the same, checked. It does not know how any of them is carried out.
"""

import ipaddress
from dataclasses import dataclass
from pathlib import Path

from ossia.harmony.messages import System
from ossia.harmony.opening import OPENING


@dataclass(frozen=True, slots=True)
class Settings:
    """names: what clients may call the model, besides its own name. log_prompts: write what is said to the log. opening: the
    first lines of the system message.

    max_bodies_bytes: of all requests that are being read. max_connections_per_address: None for half of all.
    write_seconds: in which a client has to read some of its answer. behind_proxy: a proxy on this machine says who asks;
    else any process here could choose to be anybody.
    """

    names: tuple[str, ...] = ()
    host: str = "127.0.0.1"
    port: int = 8000
    api_keys: tuple[str, ...] = ()
    allow_origins: tuple[str, ...] = ()
    allow_hosts: tuple[str, ...] = ()
    behind_proxy: bool = False
    max_body_bytes: int = 32 << 20
    max_bodies_bytes: int = 256 << 20
    max_header_bytes: int = 64 << 10
    max_connections: int = 4096
    max_connections_per_address: int | None = None
    write_seconds: float = 60.0
    max_running: int = 256
    max_waiting: int = 512
    queue_seconds: float = 300.0
    answer_seconds: float = 3600.0
    drain_seconds: float = 30.0
    cache_bytes: int | None = None
    prefix_bytes: int = 1 << 30
    state: Path | None = None
    state_bytes: int = 1 << 30
    state_days: float = 30.0
    log_requests: bool = True
    log_prompts: bool = False
    opening: System = OPENING

    def __post_init__(self) -> None:
        if not self.api_keys and not is_loopback(self.host):
            raise ValueError(
                f"{self.host} can be reached from other machines: give --api-key, or stay on 127.0.0.1 (the default)"
            )
        if any(len(key) < 8 or not key.isascii() or not key.isprintable() or " " in key for key in self.api_keys):
            raise ValueError("an API key needs at least 8 printable ASCII characters and no space")
        limits = {
            "port": 0 <= self.port < 65536,
            "max_body_bytes": self.max_body_bytes >= 1024,
            "max_bodies_bytes": self.max_bodies_bytes >= 2 * self.max_body_bytes,
            "max_header_bytes": self.max_header_bytes >= 1024,
            "max_connections": self.max_connections >= 1,
            "max_connections_per_address": self.max_connections_per_address is None
            or self.max_connections_per_address >= 1,
            "write_seconds": self.write_seconds > 0,
            "max_running": self.max_running >= 1,
            "max_waiting": self.max_waiting >= 0,
            "queue_seconds": self.queue_seconds > 0,
            "answer_seconds": self.answer_seconds > 0,
            "drain_seconds": self.drain_seconds >= 0,
            "cache_bytes": self.cache_bytes is None or self.cache_bytes > 0,
            "prefix_bytes": self.prefix_bytes >= 0,
            "state_bytes": self.state_bytes >= 1 << 20,
            "state_days": self.state_days > 0,
        }
        if wrong := [name for name, good in limits.items() if not good]:
            raise ValueError(f"{wrong[0]} {getattr(self, wrong[0])} is out of range")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
