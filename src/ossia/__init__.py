"""Ossia: run, serve, tune and judge open-weight reasoning models of the gpt-oss family.

This is the public API: `ossia.load` returns a model, `ossia.Chat` is a conversation with one. Each name is imported when
it is first used, so `import ossia` imports neither torch nor Numba nor NumPy.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ossia.chat import Answer, Chat, Done, ToolProgressed, ToolResult, ToolStarted, Usage, converse, gather
    from ossia.engine.engine import Engine
    from ossia.engine.request import ContextError, Sampled, SamplingParams
    from ossia.harmony.grammar import GrammarCache
    from ossia.harmony.messages import (
        Developer,
        Message,
        ResponseFormat,
        System,
        ToolNamespace,
        ToolSpec,
        assistant,
        developer,
        system,
        tool,
        user,
    )
    from ossia.harmony.parse import Delta, End, Parser, Start, parse
    from ossia.harmony.render import render
    from ossia.loading import Model, load
    from ossia.rollout import Rollout, RolloutRequest, roll_out
    from ossia.task import Example, Grade, Task, final_text
    from ossia.tokenizer.tokenizer import Tokenizer
    from ossia.tokenizer.tokenizer_json import o200k_harmony
    from ossia.tools.choose import ToolFactory, ToolSettings
    from ossia.tools.errors import ToolUnavailableError
    from ossia.tools.functions import Tool, ToolOutput, function_tool
    from ossia.tools.session import ToolProgress, ToolSession
    from ossia.tools.toolset import ToolSet
    from ossia.turn import TurnOptions

__all__ = [
    "Answer",
    "Chat",
    "ContextError",
    "Delta",
    "Developer",
    "Done",
    "End",
    "Engine",
    "Example",
    "Grade",
    "GrammarCache",
    "Message",
    "Model",
    "Parser",
    "ResponseFormat",
    "Rollout",
    "RolloutRequest",
    "Sampled",
    "SamplingParams",
    "Start",
    "System",
    "Task",
    "Tokenizer",
    "Tool",
    "ToolFactory",
    "ToolNamespace",
    "ToolOutput",
    "ToolProgress",
    "ToolProgressed",
    "ToolResult",
    "ToolSession",
    "ToolSet",
    "ToolSettings",
    "ToolSpec",
    "ToolStarted",
    "ToolUnavailableError",
    "TurnOptions",
    "Usage",
    "__version__",
    "assistant",
    "converse",
    "developer",
    "final_text",
    "function_tool",
    "gather",
    "load",
    "o200k_harmony",
    "parse",
    "render",
    "roll_out",
    "system",
    "tool",
    "user",
]
__version__ = "0.1.0"

# module: its public names
_MODULES = {
    "ossia.chat": "Answer Chat Done ToolProgressed ToolResult ToolStarted Usage converse gather",
    "ossia.engine.engine": "Engine",
    "ossia.engine.request": "ContextError Sampled SamplingParams",
    "ossia.harmony.grammar": "GrammarCache",
    "ossia.harmony.messages": "Developer Message ResponseFormat System ToolNamespace ToolSpec "
    "assistant developer system tool user",
    "ossia.harmony.parse": "Delta End Parser Start parse",
    "ossia.harmony.render": "render",
    "ossia.loading": "Model load",
    "ossia.rollout": "Rollout RolloutRequest roll_out",
    "ossia.task": "Example Grade Task final_text",
    "ossia.tokenizer.tokenizer": "Tokenizer",
    "ossia.tokenizer.tokenizer_json": "o200k_harmony",
    "ossia.tools.choose": "ToolFactory ToolSettings",
    "ossia.tools.errors": "ToolUnavailableError",
    "ossia.tools.functions": "Tool ToolOutput function_tool",
    "ossia.tools.session": "ToolProgress ToolSession",
    "ossia.tools.toolset": "ToolSet",
    "ossia.turn": "TurnOptions",
}
_HOME = {name: module for module, names in _MODULES.items() for name in names.split()}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'ossia' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
