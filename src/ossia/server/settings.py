"""Settings of a server. The defaults are safe on a local machine.

Input: values from the command line or a test. Output: the same values, checked.
"""

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path

from ossia.harmony.messages import System
from ossia.harmony.opening import OPENING
from ossia.tools.choose import ToolSettings


@dataclass(frozen=True, slots=True)
class Settings:
    """What `ossia serve` is started with.

    names: names of the model that clients may use, besides its own.
    behind_proxy: take client addresses from X-Forwarded-For. Only for a trusted proxy on this machine.
    max_total_body_bytes: of all request bodies that are being read.
    max_connections_per_address: None for half of max_connections.
    write_timeout: seconds in which a client must read a part of its answer.
    max_num_seqs: answers generated at the same time. max_queued: requests that wait for that.
    queue_timeout, request_timeout, shutdown_timeout: seconds in the queue, for an answer, and for answers at shutdown.
    kv_cache_bytes: of keys and values. prefix_cache_bytes: the part of it for reusable prompt prefixes.
    state: folder of stored responses; None stores nothing.
    log_prompts: write prompts and answers to the log.
    opening: the first lines of the system message.
    tools: the built-in tools that requests may use; none by default.
    """

    names: tuple[str, ...] = ()
    host: str = "127.0.0.1"
    port: int = 8000
    api_keys: tuple[str, ...] = ()
    allow_origins: tuple[str, ...] = ()
    allow_hosts: tuple[str, ...] = ()
    behind_proxy: bool = False
    max_body_bytes: int = 32 << 20
    max_total_body_bytes: int = 256 << 20
    max_header_bytes: int = 64 << 10
    max_connections: int = 4096
    max_connections_per_address: int | None = None
    write_timeout: float = 60.0
    max_num_seqs: int = 256
    max_queued: int = 512
    queue_timeout: float = 300.0
    request_timeout: float = 3600.0
    shutdown_timeout: float = 30.0
    kv_cache_bytes: int | None = None
    prefix_cache_bytes: int = 1 << 30
    state: Path | None = None
    state_bytes: int = 1 << 30
    state_days: float = 30.0
    log_requests: bool = True
    log_prompts: bool = False
    opening: System = OPENING
    tools: ToolSettings = field(default_factory=ToolSettings)

    def __post_init__(self) -> None:
        if not self.api_keys and not is_loopback(self.host):
            raise ValueError(
                f"{self.host} can be reached from other machines: give --api-key, or use 127.0.0.1 (the default)"
            )
        if any(len(key) < 8 or not key.isascii() or not key.isprintable() or " " in key for key in self.api_keys):
            raise ValueError("an API key needs at least 8 printable ASCII characters and no space")
        limits = {
            "port": 0 <= self.port < 65536,
            "max_body_bytes": self.max_body_bytes >= 1024,
            "max_total_body_bytes": self.max_total_body_bytes >= 2 * self.max_body_bytes,
            "max_header_bytes": self.max_header_bytes >= 1024,
            "max_connections": self.max_connections >= 1,
            "max_connections_per_address": self.max_connections_per_address is None
            or self.max_connections_per_address >= 1,
            "write_timeout": self.write_timeout > 0,
            "max_num_seqs": self.max_num_seqs >= 1,
            "max_queued": self.max_queued >= 0,
            "queue_timeout": self.queue_timeout > 0,
            "request_timeout": self.request_timeout > 0,
            "shutdown_timeout": self.shutdown_timeout >= 0,
            "kv_cache_bytes": self.kv_cache_bytes is None or self.kv_cache_bytes > 0,
            "prefix_cache_bytes": self.prefix_cache_bytes >= 0,
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
