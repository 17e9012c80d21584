"""The declaration of the python tool, and how a call's text becomes code.

The description is that of OpenAI's harmony library (Apache-2.0, `ToolNamespaceConfig.python`), because the model was
trained with it. A test compares them.
"""

import re

import msgspec

from ossia.harmony.messages import ToolNamespace

_SECONDS = "120.0"
_DESCRIPTION = """Use this tool to execute Python code in your chain of thought. The code will not be shown to the user. This tool should be used for internal reasoning, but not for code that is intended to be visible to the user (e.g. when creating plots, tables, or files).

When you send a message containing Python code to python, it will be executed in a stateful Jupyter notebook environment. python will respond with the output of the execution or time out after 120.0 seconds. The drive at '/mnt/data' can be used to save and persist user files. Internet access for this session is UNKNOWN. Depends on the cluster."""  # noqa: E501
_SHORT = "Run Python code. Print what you want to see."
_FENCED = re.compile(r"\s*```[ \t]*(?:python|py|python3)?[ \t]*\n(.*?)\n?```\s*", re.S)


def python_namespace(seconds: float = 120.0, short: bool = False) -> ToolNamespace:
    """The namespace `python`, called with code. seconds: the time limit of a cell. short: describe it in one line."""
    if short:
        return ToolNamespace("python", _SHORT)
    return ToolNamespace("python", _DESCRIPTION.replace(_SECONDS, f"{seconds:.1f}"))


def code_of(text: str) -> str:
    """The code of a call: the text itself, one fenced block, or the only value of {"code": …}."""
    if text.lstrip().startswith("{"):
        try:
            value = msgspec.json.decode(text)
        except (msgspec.MsgspecError, RecursionError, UnicodeError):
            value = None
        if isinstance(value, dict) and list(value) == ["code"] and isinstance(value["code"], str):
            text = value["code"]
    fenced = _FENCED.fullmatch(text)
    return fenced[1] if fenced and "```" not in fenced[1] else text
