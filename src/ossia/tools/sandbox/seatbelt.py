"""The macOS form: a profile for `sandbox-exec`. It is written from Apple's and others' published profiles, untested.

In: the command and the settings. Out: the command that runs it under the profile. Limits of memory and processes are
left to the caller: macOS has no namespaces, and the profile covers files, network and signals.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from ossia.tools.sandbox.linux.plan import visible_paths
from ossia.tools.sandbox.settings import SandboxSettings

_SYSTEM = ("/usr", "/bin", "/sbin", "/System", "/Library/Frameworks", "/Library/Developer", "/Library/Apple",
           "/private/var/db/dyld", "/private/etc/localtime", "/opt/homebrew")  # fmt: skip
_DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom", "/dev/dtracehelper")


def seatbelt_command(argv: Sequence[str], settings: SandboxSettings, root: Path, temporary: Path) -> list[str]:
    """The command under `sandbox-exec`. The paths are canonical: macOS compares them after following /tmp and /var."""
    return ["/usr/bin/sandbox-exec", "-p", profile(settings, root, temporary), *argv]


def profile(settings: SandboxSettings, root: Path, temporary: Path) -> str:
    """The profile's text: everything is denied but what it names."""
    readable = [*_SYSTEM, *visible_paths(settings.network), *map(str, settings.binds)]
    writable = [str(root), str(temporary)]
    lines = [
        "(version 1)",
        "(deny default)",
        "(allow process-exec process-fork)",
        "(allow signal (target same-sandbox))",
        "(allow sysctl-read)",
        "(allow file-read-metadata)",
        f"(allow file-read* file-map-executable {_subpaths([*readable, *writable])})",
        f"(allow file-write* {_subpaths(writable)})",
        f"(allow file-read* file-write-data {' '.join(f'(literal {_quoted(name)})' for name in _DEVICES)})",
        "(allow ipc-posix-sem)",
    ]
    if settings.network:
        lines += ["(allow network*)", '(allow mach-lookup (global-name "com.apple.SystemConfiguration.configd"))']
    return "\n".join(lines) + "\n"


def _subpaths(paths: Sequence[str]) -> str:
    return " ".join(f"(subpath {_quoted(path)})" for path in dict.fromkeys(map(os.path.realpath, paths)))


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
