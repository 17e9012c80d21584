"""The shape of the package: imports point down, files and functions stay small, and `import ossia` stays light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import ossia

PACKAGE = Path(ossia.__file__).parent
LEFT = ["quant", "kernels", "model", "engine"]
RIGHT = ["tokenizer", "tokenizer_json", "harmony", "tools"]
BOTH = [*LEFT, *RIGHT]

# The architecture: what each part may use, besides itself. Lazy and type-only imports count too.
MAY_USE: dict[str, set[str]] = {
    "files": set(),
    "quant": set(),
    "kernels": {"quant"},
    "model": {"files", "kernels", "quant"},
    "engine": {"model", "kernels", "quant"},
    "added_tokens": {"files", "tokenizer_json"},
    "tokenizer": {"added_tokens", "files", "tokenizer_json"},
    "tokenizer_json": set(),
    "harmony": {"tokenizer", "tokenizer_json"},
    "tools": {"harmony", "tokenizer"},
    "recognise": {"files"},
    "hub_check": set(),
    "hub": {"files", "hub_check", "recognise"},
    "settings_files": {"files", "tokenizer", "tokenizer_json"},
    "loading": {*BOTH, "files", "hub", "settings_files"},
    "turn": {*BOTH},
    "chat": {*BOTH, "loading", "turn"},
    "task": {*RIGHT, "chat"},
    "tasks": {*RIGHT, "task"},
    "rollout": {*BOTH, "loading", "chat", "task"},
    "train": {*BOTH, "hub", "loading", "chat", "task", "tasks", "rollout"},
    "evals": {*BOTH, "loading", "chat", "task", "tasks", "rollout"},
    "synth": set(BOTH),
    "bench": {"engine", "model", "kernels", "hub", "recognise"},
    "terminal": {*BOTH, "loading", "chat"},
    "server": {*BOTH, "hub", "loading", "chat"},
    "cli": {
        *BOTH,
        "hub",
        "recognise",
        "loading",
        "chat",
        "train",
        "evals",
        "task",
        "tasks",
        "synth",
        "terminal",
        "bench",
        "server",
    },
    "__main__": {"cli"},
    "__init__": {"loading", "chat"},
}
TEXT_ONLY = ["files.py", "added_tokens.py", "tokenizer.py", "tokenizer_json.py", "harmony", "tools", "task.py", "tasks"]
ARRAY_LIBRARIES = {"numpy", "torch", "numba", "triton"}


def imported(node: ast.AST) -> list[str]:
    match node:
        case ast.Import(names):
            return [alias.name for alias in names]
        case ast.ImportFrom(str(module), names, 0):
            return [f"{module}.{alias.name}" if module == "ossia" else module for alias in names]
        case ast.ImportFrom():
            return ["relative"]
        case ast.Call(func=ast.Name("import_module"), args=[ast.Constant(str(module)), *_]):
            return [module]
    return []


def imports(path: Path) -> list[str]:
    return [name for node in ast.walk(ast.parse(path.read_text("utf-8"))) for name in imported(node)]


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path: Path):
    here = path.relative_to(PACKAGE).with_suffix("").parts[0]
    used = {name.split(".")[1] for name in imports(path) if name.startswith("ossia.")}
    assert "relative" not in imports(path)
    assert used <= MAY_USE[here] | {here}


def test_the_text_column_imports_no_array_library():
    for part in TEXT_ONLY:
        paths = [PACKAGE / part] if part.endswith(".py") else sorted((PACKAGE / part).rglob("*.py"))
        for path in paths:
            assert not {name.split(".")[0] for name in imports(path)} & ARRAY_LIBRARIES, path


def test_torch_is_imported_only_where_it_is_optional():
    optional = [PACKAGE / "train", PACKAGE / "kernels" / "triton"]
    allowed = {PACKAGE / "kernels" / "reference.py", *(path for folder in optional for path in folder.rglob("*.py"))}
    users = {path for path in sources() if "torch" in {name.split(".")[0] for name in imports(path)}}
    assert users <= allowed


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_and_functions_stay_small(path: Path):
    text = path.read_text("utf-8")
    assert len(text.splitlines()) <= 500
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 60, node.name


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_file_says_what_it_is(path: Path):
    assert ast.get_docstring(ast.parse(path.read_text("utf-8")))


def test_importing_ossia_imports_neither_torch_nor_numba():
    code = "import sys, ossia, ossia.harmony, ossia.cli; print([n for n in ('torch', 'numba', 'numpy', 'starlette', 'uvicorn') if n in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
