"""Ossia: run, serve, tune and judge open-weight reasoning models of the gpt-oss family.

`ossia.load` gives a model, `ossia.Chat` a conversation with one. Importing this package imports neither torch nor numba:
the names below are looked up when they are first used.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ossia.chat import Chat, converse
    from ossia.loading import Model, load

__all__ = ["Chat", "Model", "__version__", "converse", "load"]
__version__ = "0.1.0"

_HOME = {"Chat": "ossia.chat", "converse": "ossia.chat", "Model": "ossia.loading", "load": "ossia.loading"}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'ossia' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOME[name]), name)
