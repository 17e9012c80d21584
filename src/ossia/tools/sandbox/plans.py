"""From settings to the plan of the helper process.

In: a form, a command, `SandboxSettings`, and folders of the host. Out: a `Plan`.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from ossia.tools.sandbox.folders import user_of
from ossia.tools.sandbox.linux.plan import Plan, visible_paths
from ossia.tools.sandbox.seatbelt import seatbelt_command
from ossia.tools.sandbox.settings import DATA, Form, SandboxSettings

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# numeric libraries start a thread for each core, and threads count as processes
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_MAX_THREADS")
_MOST_THREADS = 4
_LOGIN = ("/etc/profile",)  # which a login shell complains about if it is there and cannot be read
_MOST_TEXT = 8 << 20  # bytes of a command and its environment


def plan_for(
    form: Form,
    argv: Sequence[str],
    settings: SandboxSettings,
    root: Path,
    temporary: Path,
    keep: Sequence[int] = (),
    folder: str | None = None,
) -> Plan:
    """The plan of one program. folder: where it begins, relative to the root. Raises SandboxError, ValueError."""
    if not argv:
        raise ValueError("the command is empty: give a program's name")
    if sum(len(word) for word in argv) > _MOST_TEXT or any("\0" in word for word in argv):
        raise ValueError("the command is too long or holds a null character")
    inside = form in ("root", "user")
    data = DATA if inside else str(root)
    binds = [os.path.realpath(path) for path in settings.binds]
    return Plan(
        form=form if form != "seatbelt" else "none",
        argv=seatbelt_command(argv, settings, root, temporary) if form == "seatbelt" else list(argv),
        environment=_environment(settings, data, "/tmp" if inside else str(temporary)),
        data=os.path.realpath(root),
        temporary=str(temporary),
        folder=os.path.normpath(os.path.join(data, folder or ".")),
        paths=_readable([*visible_paths(settings.network), *binds, *(_LOGIN if form == "landlock" else ())]),
        keep=list(keep),
        user=_user(form, root),
        network=settings.network,
        memory_bytes=settings.memory_bytes,
        processes=settings.processes,
        file_bytes=settings.file_bytes,
        disk_bytes=settings.disk_bytes,
        tmp_bytes=settings.tmp_bytes,
        open_files=settings.open_files,
        seconds=settings.seconds,
        of_root=form == "root" and root.stat().st_uid == 0,
    )


def _user(form: Form, root: Path) -> int:
    if form not in ("root", "user", "landlock"):
        return os.getuid()
    return user_of(root, mapped=form == "root")


def _readable(paths: list[str]) -> list[str]:
    """The paths, and for a link also what it names."""
    return list(dict.fromkeys([path for name in paths for path in (name, os.path.realpath(name)) if path != "/"]))


def _environment(settings: SandboxSettings, home: str, temporary: str) -> dict[str, str]:
    threads = str(min(os.cpu_count() or 1, _MOST_THREADS))
    python = os.path.dirname(sys.executable)
    return {
        "PATH": f"{python}:{_PATH}" if python not in _PATH.split(":") else _PATH,
        "HOME": home,
        "TMPDIR": temporary,
        "LANG": "C.UTF-8",
        "TERM": "dumb",
        "USER": "sandbox",
        "MPLBACKEND": "agg",
        "MPLCONFIGDIR": f"{temporary}/matplotlib",
        **dict.fromkeys(_THREADS, threads),
        **settings.environment,
    }
