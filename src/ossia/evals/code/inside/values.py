"""Values as they travel between a tested program and its checker: plain data, and numbers for everything else.

In: a Python value. Out: JSON, and the value again. Nothing of a value's own code runs where it is read.
"""

import builtins
from collections.abc import Callable
from typing import Any

Keep = Callable[[Any], int]
Remote = Callable[[int], Any]


def packed(value: Any, keep: Keep) -> Any:
    """A value as JSON. keep: stores an object that is not plain data and returns its number."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return ["int", hex(int(value))]
    if isinstance(value, float):
        return ["float", float(value).hex()]
    if isinstance(value, complex):
        return ["complex", value.real.hex(), value.imag.hex()]
    if isinstance(value, (bytes, bytearray)):
        return ["bytes", bytes(value).hex()]
    if isinstance(value, range):
        return ["range", value.start, value.stop, value.step]
    for name, kind in (("list", list), ("tuple", tuple), ("set", set), ("frozenset", frozenset)):
        if isinstance(value, kind):
            return [name, *(packed(each, keep) for each in value)]
    if isinstance(value, dict):
        return ["dict", *([packed(key, keep), packed(each, keep)] for key, each in value.items())]
    if isinstance(value, type) and vars(builtins).get(value.__name__) is value:
        return ["builtin", value.__name__]
    return ["object", keep(value)]


def unpacked(value: Any, remote: Remote) -> Any:
    """The value again. remote: what stands for an object by number. Raises ValueError, TypeError, IndexError."""
    if value is None or isinstance(value, (bool, str)):
        return value
    kind, *rest = value
    if kind in ("int", "float", "bytes", "complex", "range", "builtin"):
        readers: dict[str, Callable[..., Any]] = {
            "int": lambda text: int(text, 16),
            "float": float.fromhex,
            "bytes": bytes.fromhex,
            "complex": lambda real, imag: complex(float.fromhex(real), float.fromhex(imag)),
            "range": range,
            "builtin": lambda name: vars(builtins)[name],
        }
        return readers[kind](*rest)
    if kind == "object":
        return remote(int(rest[0]))
    if kind == "dict":
        return {unpacked(key, remote): unpacked(each, remote) for key, each in rest}
    containers: dict[str, Callable[..., Any]] = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}
    return containers[kind](unpacked(each, remote) for each in rest)
