"""Runs cells of Python code one after another in one namespace. This file is a program that runs in the sandbox.

In: lines of JSON on the socket that argv names, {"code": …}. Out: on the same socket {"ok", "interrupted", "images",
"files"} after each cell. What the cell prints goes to the program's own stdout and stderr. Imports only the standard
library, and as little of it as possible, because it starts with each conversation.
"""

import ast
import json
import linecache
import os
import signal
import sys
import time
import traceback
import types
import warnings
from typing import Any

_TRACEBACK_LINES = 40
_MOST_FILES = 1000
_CELL = "<cell "


class CellRunner:
    """One namespace. channel: the socket's descriptor."""

    def __init__(self, channel: int) -> None:
        self._channel, self._count, self._figures = channel, 0, 0
        self._data = os.getcwd()
        self._images: list[str] = []
        self._running = False
        self._seen: dict[str, int] = {}
        module = types.ModuleType("__main__")
        module.__dict__.update(display=self.display, __builtins__=__builtins__, __shell__=_shell)
        sys.modules["__main__"] = module
        self._names = module.__dict__
        self._loop: Any = None
        signal.signal(signal.SIGINT, self._interrupt)
        warnings.filterwarnings("ignore", message=".*non-interactive.*cannot be shown")

    def _interrupt(self, *_: object) -> None:
        if self._running:
            self._running = False
            raise KeyboardInterrupt

    def serve(self) -> None:
        with open(self._channel, "r+b", buffering=0, closefd=False) as channel:
            rest = b""
            while piece := channel.read(1 << 16):
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    reply = self.cell(json.loads(line)["code"])
                    channel.write(json.dumps(reply).encode() + b"\n")

    def cell(self, code: str) -> dict[str, object]:
        self._count += 1
        self._images = []
        began = time.time()
        ok, interrupted = True, False
        try:
            self._running = True
            self._execute(code, f"{_CELL}{self._count}>")
            self._save_figures()
        except KeyboardInterrupt:
            ok, interrupted = False, True
            _print_error(sys.exc_info()[1])
        except BaseException as error:
            ok = False
            _print_error(error)
        finally:
            self._running = False
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError, AttributeError):
                continue  # the cell closed or replaced it
        return {"ok": ok, "interrupted": interrupted, "images": self._images, "files": self._written(began)}

    def _execute(self, code: str, name: str) -> None:
        linecache.cache[name] = (len(code), None, code.splitlines(True), name)
        try:
            tree = ast.parse(code, name)
        except SyntaxError:
            if not (changed := _without_magic(code)):
                raise
            tree = ast.parse(changed, name)
        last = None
        if tree.body and isinstance(tree.body[-1], ast.Expr):
            last = ast.Expression(tree.body.pop().value)  # type: ignore[attr-defined]
        if tree.body:
            self._run(compile(tree, name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT))
        if last is not None:
            value = self._run(compile(last, name, "eval", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT))
            if value is not None:
                self._names["_"] = value
                self.display(value)

    def _run(self, code: types.CodeType) -> object:
        value = eval(code, self._names)
        if code.co_flags & 0x80:  # CO_COROUTINE: the cell awaits at its top level
            import asyncio

            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                asyncio.set_event_loop(self._loop)
            return self._loop.run_until_complete(value)
        return value

    def display(self, *values: object) -> None:
        """Show values: pictures as files, others as text."""
        for value in values:
            if type(value).__module__.startswith("matplotlib.") and hasattr(value, "savefig"):
                self._save_figure(value)
            elif (picture := _picture(value)) is not None:
                self._announce(picture)
            else:
                print(repr(value))

    def _save_figures(self) -> None:
        if (pyplot := sys.modules.get("matplotlib.pyplot")) is None:
            return
        for number in pyplot.get_fignums():
            self._save_figure(pyplot.figure(number))
        pyplot.__dict__["show"] = lambda *_, **__: self._save_figures()

    def _save_figure(self, figure: Any) -> None:
        import io

        file = io.BytesIO()
        figure.savefig(file, format="png")
        self._announce(file.getvalue())
        if (pyplot := sys.modules.get("matplotlib.pyplot")) is not None:
            pyplot.close(figure)

    def _announce(self, picture: bytes) -> None:
        self._figures += 1
        while os.path.exists(f"{self._data}/figure_{self._figures}.png"):
            self._figures += 1
        path = f"{self._data}/figure_{self._figures}.png"
        with open(path, "wb") as file:
            file.write(picture)
        self._images.append(os.path.basename(path))
        print(f"[image: {path}]")

    def _written(self, since: float) -> list[str]:
        """Files of the data folder that were written during a cell."""
        found: list[str] = []
        waiting, looked = [self._data], 0
        while waiting and looked < _MOST_FILES:
            try:
                with os.scandir(waiting.pop()) as entries:
                    for entry in entries:
                        looked += 1
                        if entry.is_dir(follow_symlinks=False):
                            waiting.append(entry.path)
                        elif entry.is_file(follow_symlinks=False):
                            # file systems stamp with the time of the last tick, so a cell may seem to begin later
                            changed = entry.stat(follow_symlinks=False).st_ctime_ns
                            if changed >= (since - 0.02) * 1e9 and self._seen.get(entry.path) != changed:
                                self._seen[entry.path] = changed
                                found.append(os.path.relpath(entry.path, self._data))
            except OSError:
                continue
        return sorted(found)


def _picture(value: object) -> bytes | None:
    try:
        made = value._repr_png_()  # type: ignore[attr-defined]
    except Exception:
        return None
    return made if isinstance(made, bytes) else None


def _without_magic(code: str) -> str | None:
    """Notebook lines as Python: `!command` runs a shell, `%name` does nothing. None if there are none."""
    lines, changed = code.split("\n"), False
    for at, line in enumerate(lines):
        text = line.lstrip()
        indent = line[: len(line) - len(text)]
        if text.startswith("!"):
            lines[at], changed = f"{indent}__shell__({text[1:]!r})", True
        elif text.startswith("%"):
            lines[at], changed = f"{indent}pass", True
    return "\n".join(lines) if changed else None


def _shell(command: str) -> None:
    import subprocess

    sys.stdout.flush()
    subprocess.run(command, shell=True, check=False)


def _print_error(error: BaseException | None) -> None:
    """The traceback of the cell's own frames, its last lines."""
    assert error is not None
    try:
        report = traceback.TracebackException.from_exception(error)
        _keep_cell_frames(report, set())
        lines = "".join(report.format()).splitlines()
    except Exception:
        lines = [type(error).__name__]  # an error whose own text raises
    try:
        sys.stdout.flush()
        print("\n".join(lines[-_TRACEBACK_LINES:]), file=sys.stderr)
    except (OSError, ValueError, AttributeError):
        os.write(2, ("\n".join(lines[-_TRACEBACK_LINES:]) + "\n").encode("utf-8", "replace"))


def _keep_cell_frames(report: traceback.TracebackException, seen: set[int]) -> None:
    if id(report) in seen:
        return
    seen.add(id(report))
    own = [frame for frame in report.stack if frame.filename.startswith(_CELL)]
    report.stack = traceback.StackSummary.from_list(own)
    for other in (report.__cause__, report.__context__, *(report.exceptions or () if _is_group(report) else ())):
        if other is not None:
            _keep_cell_frames(other, seen)


def _is_group(report: traceback.TracebackException) -> bool:
    return getattr(report, "exceptions", None) is not None


if __name__ == "__main__":
    channel = int(sys.argv[1])
    os.set_inheritable(channel, False)
    sys.argv = [""]
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    CellRunner(channel).serve()
