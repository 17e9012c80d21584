"""The process of a checker: runs trusted tests, whose calls go to the tested program in another sandbox.

In: a job on the socket whose number is the first argument: {solution, before, test, remote, modules,
call_seconds}. Out: a verdict on it. The tested program is behind the socket of the second argument. It sees calls, and no
test. The text of values.py stands before this one.
"""

import builtins
import importlib
import json
import socket
import sys
from typing import Any

# the functions of values.py, found at run time: both texts are one program
packed: Any = globals().get("packed")
unpacked: Any = globals().get("unpacked")
_MOST_LINE = 16 << 20  # bytes of an answer


class ProgramError(Exception):
    """The tested program ended, or answered what no program would."""


class OverTimeError(ProgramError):
    """One call took longer than it may."""


class Link:
    """The tested program, asked by lines."""

    def __init__(self, number: int, seconds: float | None) -> None:
        self.socket = socket.socket(fileno=number)
        self.socket.settimeout(seconds)
        self.lines = self.socket.makefile("rwb")
        self.raised = ""

    def ask(self, *request: Any) -> Any:
        try:
            self.lines.write(json.dumps(request).encode() + b"\n")
            self.lines.flush()
            line = self.lines.readline(_MOST_LINE)
        except TimeoutError:
            raise OverTimeError("one call took too long") from None
        except OSError:
            line = b""
        if not line.endswith(b"\n"):
            raise ProgramError("the answer is too long" if line else "the program ended by itself")
        try:
            kind, *rest = json.loads(line)
            if kind == "value":
                return unpacked(rest[0], lambda number: RemoteObject(self, number))
            name, text = map(str, rest)
        except (ValueError, TypeError, IndexError, KeyError, RecursionError, OverflowError) as error:
            raise ProgramError(f"an answer that cannot be read: {error}") from None
        self.raised = f"{name}: {text}"
        known = getattr(builtins, name, None)
        raise known(text) if isinstance(known, type) and issubclass(known, Exception) else ProgramError(self.raised)


class RemoteObject:
    """An object of the tested program that is not plain data. It equals only itself."""

    def __init__(self, link: Link, number: int) -> None:
        object.__setattr__(self, "_link", link)
        object.__setattr__(self, "_number", number)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self._link.ask("call", self._number, packed(arguments, number_of), packed(named, number_of))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._link.ask("get", self._number, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._link.ask("set", self._number, name, packed(value, number_of))

    def __iter__(self) -> Any:
        return iter(self._link.ask("list", self._number))


def number_of(value: Any) -> int:
    if isinstance(value, RemoteObject):
        return object.__getattribute__(value, "_number")
    raise TypeError(f"a test passes {type(value).__name__}, which cannot travel to the program")


def verdict(job: dict[str, Any], link: Link) -> list[str]:
    """The verdict and its reason."""
    try:
        link.ask("load", job["solution"])
    except SyntaxError as error:
        return ["CE", str(error)]
    except OverTimeError as error:
        return ["TLE", str(error)]
    except Exception as error:
        return ["RE", link.raised or str(error)]
    names: dict[str, Any] = {"__name__": "test"}
    for name, target in job["remote"].items():
        try:
            names[name] = link.ask("name", target)
        except Exception:
            return ["CE", f"the code defines no {target}"]
    for module in job["modules"]:
        names[module] = importlib.import_module(module)
    link.raised = ""
    try:
        kept = {name: names[name] for name in job["remote"]}
        exec(compile(job["before"], "before.py", "exec"), names)
        names.update(kept)
        exec(compile(job["test"], "test.py", "exec"), names)
    except OverTimeError as error:
        return ["TLE", str(error)]
    except BaseException as error:
        if link.raised or isinstance(error, ProgramError):
            return ["RE", link.raised or str(error)]
        return ["WA", f"{type(error).__name__}: {error}"[:300]]
    return ["AC", ""]


def main() -> None:
    channel = socket.socket(fileno=int(sys.argv[1])).makefile("rwb")
    job = json.loads(channel.readline())
    channel.write(json.dumps(verdict(job, Link(int(sys.argv[2]), job["call_seconds"]))).encode() + b"\n")
    channel.flush()


sys.setrecursionlimit(10_000)
main()
