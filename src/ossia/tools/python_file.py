"""The functions of a Python file as tools.

In: the path of a file that the user names. Out: a `Tool` for each public function with a docstring.
"""

import importlib.util
import inspect
from pathlib import Path

from ossia.tools.functions import Tool, function_tool


def tools_from(path: Path) -> tuple[Tool, ...]:
    """The public functions that have a docstring, as tools. Runs the file.

    Raises FileNotFoundError, and ValueError for a file that fails or defines no such function.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}: give a Python file that defines tools")
    spec = importlib.util.spec_from_file_location(f"ossia_tools_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ValueError(f"{path} fails when run: {type(error).__name__}: {error}") from error
    functions = inspect.getmembers(module, inspect.isfunction)
    public = [function for name, function in functions if function.__module__ == module.__name__ and name[0] != "_"]
    described = [function for function in public if inspect.getdoc(function)]
    if not described:
        missing = ": a function needs a docstring to become a tool" if public else ""
        raise ValueError(f"{path} defines no public function with a docstring{missing}")
    return tuple(function_tool(function) for function in described)
