"""The process of a tested program: loads its code and calls its functions when the checker asks.

In: lines of JSON on the socket whose number is the first argument. Out: a line for each: a value, or what was raised.
The text of values.py stands before this one.
"""

import builtins
import json
import socket
import sys
import types
from typing import Any

# the functions of values.py, found at run time: both texts are one program
packed: Any = globals().get("packed")
unpacked: Any = globals().get("unpacked")


def serve() -> None:
    """Answer until the checker closes the socket."""
    lines = socket.socket(fileno=int(sys.argv[1])).makefile("rwb")
    objects: list[Any] = []
    module = types.ModuleType("solution")
    sys.modules["solution"] = module

    def keep(value: Any) -> int:
        objects.append(value)
        return len(objects) - 1

    def answer(request: list[Any]) -> Any:
        what, *rest = request
        if what == "load":
            exec(compile(rest[0], "solution.py", "exec"), module.__dict__)
            return None
        if what == "name":
            found = getattr(module, rest[0]) if hasattr(module, rest[0]) else getattr(builtins, rest[0])
            return ["object", keep(found)]
        target = objects[rest[0]]
        if what == "call":
            arguments, named = (unpacked(each, objects.__getitem__) for each in rest[1:])
            return packed(target(*arguments, **named), keep)
        if what == "get":
            return packed(getattr(target, rest[1]), keep)
        if what == "set":
            return setattr(target, rest[1], unpacked(rest[2], objects.__getitem__))
        return packed(list(target), keep)

    for line in lines:
        try:
            said = ["value", answer(json.loads(line))]
        except BaseException as error:
            said = ["raised", type(error).__name__, str(error)[:300]]
        lines.write(json.dumps(said).encode() + b"\n")
        lines.flush()


sys.setrecursionlimit(10_000)
serve()
