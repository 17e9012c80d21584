"""The shape of the package: imports point down, files and functions stay small, and `import ossia` stays light."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest

import ossia

PACKAGE = Path(ossia.__file__).parent
LEFT = ["quant", "kernels", "model", "engine"]
RIGHT = ["tokenizer", "harmony", "tools"]
BOTH = [*LEFT, *RIGHT]

# The architecture: what each part may use, besides itself. Lazy and type-only imports count too.
MAY_USE: dict[str, set[str]] = {
    "files": set(),
    "progress": set(),
    "quant": set(),
    "kernels": {"progress", "quant"},
    "model": {"files", "kernels", "quant"},
    "engine": {"model", "kernels", "quant"},
    "tokenizer": {"files"},
    "harmony": {"tokenizer"},
    "tools": {"harmony", "tokenizer"},
    "recognise": {"files"},
    "hub_check": set(),
    "hub": {"files", "hub_check", "recognise"},
    "settings_files": {"files", "tokenizer"},
    "loading": {*BOTH, "files", "hub", "settings_files"},
    "turn": {*BOTH},
    "loop": {*BOTH, "turn"},
    "chat": {*BOTH, "loading", "turn", "loop"},
    "task": {*RIGHT, "chat"},
    "mini": {*RIGHT, "task"},
    "rollout": {*BOTH, "loading", "chat", "task"},
    "train": {*BOTH, "hub", "loading", "chat", "task", "mini", "rollout"},
    "evals": {*BOTH, "loading", "chat", "task", "mini", "rollout"},
    "synth": set(BOTH),
    "bench": {"engine", "model", "kernels", "hub", "recognise", "loading"},
    "terminal": {*BOTH, "loading", "chat"},
    "server": {*BOTH, "hub", "loading", "chat"},
    "cli": {
        *BOTH,
        "progress",
        "hub",
        "recognise",
        "loading",
        "chat",
        "train",
        "evals",
        "task",
        "mini",
        "synth",
        "terminal",
        "bench",
        "server",
    },
    "__main__": {"cli"},
    "__init__": {*BOTH, "loading", "chat", "turn", "task", "rollout"},
}
TEXT_ONLY = ["files.py", "tokenizer", "harmony", "tools", "task.py", "mini"]

# Inside a part, from the top: what stands in one line may use what stands in the lines below it, and not its neighbours.
LAYERS: dict[str, list[set[str]]] = {
    "server": [
        {"run"},
        {"app"},
        {"apis"},
        {"apis/messages", "apis/responses"},
        {"apis/chat"},
        {"apis/fields"},
        {"core"},
        {"http"},
        {"http/decoding", "state"},
        {"errors", "settings", "options"},
    ],
    "train": [
        {"run"},
        {"objectives"},
        {"plan"},
        {"data", "loop", "peft"},
        {"model"},
        {"model/weights"},
        {"recipe"},
        {"renamed"},
    ],
    "kernels": [{"backends"}, {"cpu", "triton", "reference"}, {"sizes", "rope"}, {"ops"}, {"mapped", "machine"}],
    "mini": [{"curriculum"}, {"tasks"}, {"parts"}],
    "evals": [
        {"run"},
        {"catalogue", "view"},
        {"tasks"},
        {"answers", "bfcl", "code", "ifeval", "judges", "swe", "tau2"},
        {"report"},
        {"solvers", "mini"},
        {"core"},
        {"stats"},
    ],
}
SMALL_FOLDERS = ["server", "train", "kernels", "evals"]
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


def place(path: Path, part: str) -> str:
    """The folder of this file inside its part, or its own name at the part's top."""
    inside = path.relative_to(PACKAGE / part).with_suffix("").parts
    return "/".join(inside[:-1]) if len(inside) > 1 else inside[0]


@pytest.mark.parametrize("part", LAYERS)
def test_imports_point_down_inside_a_part(part: str):
    level = {name: number for number, names in enumerate(LAYERS[part]) for name in names}
    level |= dict.fromkeys(("__init__",), 0)

    def level_of(at: str) -> int:
        known = [name for name in level if at == name or at.startswith(name + "/")]
        return level[max(known, key=len)]

    for path in sorted((PACKAGE / part).rglob("*.py")):
        here = place(path, part)
        for module in modules_used(path):
            if module.startswith(f"ossia.{part}."):
                there = place(file_of(module), part)
                assert here.split("/")[0] == there.split("/")[0] or level_of(there) > level_of(here), (path, module)
                if here != there and here in level and there in level:
                    assert level_of(there) > level_of(here), (path, module)


def file_of(module: str) -> Path:
    path = PACKAGE.parent.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def modules_used(path: Path) -> set[str]:
    """The modules of the package that this file imports, at its top, later, or by a literal name to import_module."""
    used: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call):
            used |= {name for name in imported(node) if name.startswith("ossia.")}
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ossia"):
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                used.add(whole if file_of(whole).exists() else str(node.module))
    return used


def test_no_modules_import_each_other_in_a_circle():
    names = {".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path for path in sources()}
    graph = {name.removesuffix(".__init__"): modules_used(path) for name, path in names.items()}
    assert list(TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("part", SMALL_FOLDERS)
def test_folders_hold_at_most_ten_files(part: str):
    for folder in {path.parent for path in (PACKAGE / part).rglob("*.py")}:
        assert len([path for path in folder.glob("*.py") if path.name != "__init__.py"]) <= 10, folder


def test_a_class_name_has_one_meaning():
    """Backends are one layer: each has its own form of the same things."""
    places: dict[str, set[str]] = {}
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                inside = path.relative_to(PACKAGE)
                places.setdefault(node.name, set()).add("kernels" if inside.parts[0] == "kernels" else str(inside))
    assert not {name: found for name, found in places.items() if len(found) > 1}


def test_the_engine_imports_no_backend():
    for path in sorted((PACKAGE / "engine").rglob("*.py")):
        assert not [name for name in imports(path) if name.startswith(("ossia.kernels.cpu", "ossia.kernels.triton"))]


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


def test_every_public_name_is_there():
    """`ossia.__all__`, the names that are looked up, and the imports that type checkers see are the same."""
    typed = [node for node in ast.walk(ast.parse((PACKAGE / "__init__.py").read_text("utf-8")))
             if isinstance(node, ast.ImportFrom) and str(node.module).startswith("ossia.")]  # fmt: skip
    names = {alias.name: node.module for node in typed for alias in node.names}
    assert {*names, "__version__"} == {*ossia.__all__}
    for name, module in names.items():
        assert getattr(ossia, name) is getattr(import_module(str(module)), name)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        ossia.nothing  # noqa: B018


TESTS = Path(__file__).parent
TUPLE_METHODS = {"_replace", "_asdict", "_fields"}  # public, in spite of their names
# Private names that tests use, and why; by file, so that a new one shows.
PRIVATE_NAMES = {
    # of other packages
    "clients/anthropic_python.py": {"_client"},
    "harmony/test_simplify.py": {"_inner"},
    "harmony/test_vectors.py": {"_inner"},
    "kernels/triton/conftest.py": {"_patch_lang"},
    "model/test_checkpoint.py": {"_ntuple_diskusage"},
    "train/model/test_frozen.py": {"_python_dispatch", "_BLOCK_BYTES"},
    "tools/sandbox/attempts.py": {"_exit"},
    "train/peak.py": {"_cdata", "_python_dispatch", "_pytree"},
    # to be replaced by public behaviour: invariants of pools, failures in the middle of a step
    "engine/test_cache.py": {"_cache", "_holders", "_idle", "_kept", "_keys", "_free", "_untouched"},
    "engine/test_engine.py": {"_scheduler", "_run"},
    "kernels/triton/test_model.py": {"_runner", "_cache"},
    "server/core/test_service.py": {"_runner"},
    "server/test_overload.py": {"_tokens", "_started"},
    "server/state/test_clock.py": {"_uptime"},
    "clients/stage.py": {"_engine"},
    # to be replaced by public names: single kernels, and the steps of the warm-up
    "kernels/cpu/test_ops.py": {"_WORTH_WAKING"},
    "kernels/targets.py": {"_fp4_2", "_fp4_6", "_int4_2", "_int4_6", "_int8_2", "_int8_6"},
    "kernels/cpu/test_warmup.py": {"_Work", "_shares", "_complete"},
    "test_cli.py": {"_folder"},
    "train/model/test_heap.py": {"_glibc", "_own_bytes"},
    "train/peft/test_adapters.py": {"_config"},
}


def private_names(path: Path) -> set[str]:
    """Attributes of anything but `self`, imports, and names given to a patch, that begin with one underscore."""
    found: list[str] = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        match node:
            case ast.Attribute(value=ast.Name("self" | "cls")):
                pass
            case ast.Attribute(attr=name):
                found.append(name)
            case ast.ImportFrom(names=names):
                found += [alias.name for alias in names]
            case ast.Call(func=ast.Attribute(attr="setattr" | "object" | "delattr") | ast.Name("getattr"), args=args):
                found += [each.value for each in args if isinstance(each, ast.Constant) and isinstance(each.value, str)]
            case _:
                pass
    last = {name.rsplit(".", 1)[-1] for name in found}
    return {name for name in last if name.startswith("_") and not name.startswith("__")} - TUPLE_METHODS


@pytest.mark.parametrize("path", sorted(TESTS.rglob("*.py")), ids=lambda path: str(path.relative_to(TESTS)))
def test_tests_use_public_names(path: Path):
    assert private_names(path) <= PRIVATE_NAMES.get(path.relative_to(TESTS).as_posix(), set())
