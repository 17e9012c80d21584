"""The python tool: variables last, output comes in order, and cells that go too far are stopped."""

import asyncio
import os
from collections.abc import Awaitable, Callable

import pytest

from ossia.tools.data_folder import DataFolder
from ossia.tools.functions import ToolOutput
from ossia.tools.python.results import PythonResult
from ossia.tools.python.session import NO_OUTPUT, TIMED_OUT, PythonSession, PythonSettings
from ossia.tools.sandbox.choose import Sandbox
from ossia.tools.sandbox.settings import MIB, SandboxError, SandboxSettings
from ossia.tools.session import ToolProgress
from tests.support.tool_sessions import run_with
from tests.tools.sandbox.driver import still_running
from tests.tools.sandbox.places import python_sandbox_or_skip

SHORT = PythonSettings(seconds=0.5, interrupt_seconds=0.5, sandbox=SandboxSettings(memory_bytes=256 * MIB))
STUBBORN = """
import time
while True:
    try:
        time.sleep(60)
    except BaseException:
        continue
"""


@pytest.fixture(scope="module")
def sandbox() -> Sandbox:
    return python_sandbox_or_skip()


def session_test(
    work: Callable[[PythonSession], Awaitable[None]], sandbox: Sandbox, settings: PythonSettings | None = None
) -> None:
    run_with(PythonSession(settings=settings, sandbox=sandbox), work)


def details(output: ToolOutput) -> PythonResult:
    assert isinstance(output.details, PythonResult)
    return output.details


CELLS = [
    ("x = 41\nx + 1", "42\n", False),
    ("print('a')\n3", "a\n3\n", False),
    ("None", NO_OUTPUT, False),
    ("", NO_OUTPUT, False),
    ("import sys\nprint('e', file=sys.stderr)\nprint('o')\n'v'", "o\n'v'\ne\n", False),
    ("import os\nos.write(1, b'raw')\nprint('after')", "rawafter\n", False),
    ("!echo from the shell", "from the shell\n", False),
    ("%matplotlib inline\n5", "5\n", False),
    ("import asyncio\nawait asyncio.sleep(0, 'awaited')", "'awaited'\n", False),
    ("input()", "EOFError", True),
    ("1 +", "SyntaxError", True),
    ("raise SystemExit(3)", "SystemExit: 3", True),
    ("class E(Exception):\n    def __str__(self): raise ValueError\nraise E", "E", True),
    ("print('\\ud800')", "UnicodeEncodeError", True),
    ("import sys\nsys.stdout.close()", "", False),
]


def test_cells_print_what_a_notebook_would(sandbox: Sandbox):
    async def work(session: PythonSession):
        for code, shown, failed in CELLS:
            output = await session.run("", code)
            assert output.failed is failed, (code, output)
            assert output.text == shown or (failed and shown in output.text) or not shown, (code, output.text)

    session_test(work, sandbox)


def test_variables_last_and_files_are_named(sandbox: Sandbox):
    async def work(session: PythonSession):
        await session.run("", "import math\nr = 2\ndef area(): return r * r")
        assert (await session.run("", "area()")).text == "4\n"
        written = await session.run("", "import os\nos.makedirs('d')\nopen('d/a.txt', 'w').write('hi')")
        assert details(written).files == ("d/a.txt",)
        assert session.data.read("d/a.txt") == b"hi"
        again = await session.run("", "1")
        assert details(again).files == ()

    session_test(work, sandbox)


def test_tracebacks_show_only_the_cells_frames(sandbox: Sandbox):
    async def work(session: PythonSession):
        text = (await session.run("", "import json\ndef f():\n    json.loads('{')\nf()")).text
        assert 'File "<cell 1>", line 3, in f' in text
        assert "json.loads('{')" in text
        assert "decoder.py" not in text
        assert "worker" not in text
        assert "\x1b" not in text
        deep = (
            await session.run("", "def g(n):\n    return g(n + 1) if n % 7 else h(n)\ndef h(n): return g(n + 1)\ng(1)")
        ).text
        assert len(deep.splitlines()) <= 40
        assert "RecursionError" in deep

    session_test(work, sandbox)


def test_pictures_are_saved_and_announced(sandbox: Sandbox):
    class_of_picture = "class P:\n    def _repr_png_(self): return b'\\x89PNG picture'\n"

    async def work(session: PythonSession):
        output = await session.run("", class_of_picture + "display(P())\nP()")
        names = details(output).images
        assert names == ("figure_1.png", "figure_2.png")
        assert "figure_1.png]" in output.text
        assert session.data.read("figure_2.png") == b"\x89PNG picture"

    session_test(work, sandbox)


def test_progress_is_reported_while_a_cell_runs(sandbox: Sandbox):
    async def work(session: PythonSession):
        seen: list[ToolProgress] = []
        first = asyncio.Event()

        def report(progress: ToolProgress) -> None:
            seen.append(progress)
            first.set()

        task = asyncio.create_task(session.run("", "print('one')\nimport time\ntime.sleep(0.3)\nprint('two')", report))
        await first.wait()
        assert not task.done()
        assert (await task).text == "one\ntwo\n"
        assert "".join(progress.text for progress in seen) == "one\ntwo\n"

    session_test(work, sandbox)


def test_a_slow_cell_is_interrupted_and_its_variables_are_kept(sandbox: Sandbox):
    async def work(session: PythonSession):
        await session.run("", "x = 1")
        output = await session.run("", "print('begun')\nimport time\ntime.sleep(60)")
        assert output.failed
        assert output.text.startswith("begun\n")
        assert TIMED_OUT in output.text
        assert "were kept" in output.text
        assert details(output).timed_out
        assert not details(output).state_lost
        assert (await session.run("", "x")).text == "1\n"

    session_test(work, sandbox, SHORT)


def test_a_cell_that_does_not_stop_is_replaced_and_says_so(sandbox: Sandbox):
    async def work(session: PythonSession):
        await session.run("", "x = 1")
        output = await session.run("", STUBBORN)
        assert TIMED_OUT in output.text
        assert "were lost" in output.text
        assert details(output).state_lost
        assert "NameError" in (await session.run("", "x")).text

    session_test(work, sandbox, SHORT)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import os\nos._exit(3)", "exit code 3"),
        ("import os\nos.kill(os.getpid(), 9)", "signal 9"),
        ("pages = []\nwhile True: pages.append(b'x' * (4 << 20) + bytes(1))", "memory|MemoryError"),
    ],
)
def test_a_process_that_ends_is_replaced(sandbox: Sandbox, code: str, reason: str):
    async def work(session: PythonSession):
        output = await session.run("", code)
        assert output.failed
        assert any(each in output.text.replace("Memory ", "memory ") for each in reason.split("|")), output.text
        assert (await session.run("", "'again'")).text == "'again'\n"

    session_test(work, sandbox, PythonSettings(seconds=20, sandbox=SHORT.sandbox))


def test_a_process_that_forges_its_reply_is_replaced(sandbox: Sandbox):
    code = "import os\nfor fd in range(3, 60):\n    try: os.write(fd, b'no json\\n')\n    except OSError: pass"

    async def work(session: PythonSession):
        await session.run("", code)
        await session.run("", "1")
        assert (await session.run("", "'again'")).text == "'again'\n"

    session_test(work, sandbox)


def test_long_output_keeps_both_ends_and_a_flood_is_stopped(sandbox: Sandbox):
    async def work(session: PythonSession):
        output = await session.run("", "print('begin' + 'x' * 5000 + 'end')")
        assert output.text.startswith("beginx")
        assert output.text.endswith("xend\n")
        assert "characters left out" in output.text
        flood = await session.run("", "while True: print('y' * 1000)")
        assert "printed more than 200000 characters" in flood.text
        assert len(flood.text) < 3000
        assert (await session.run("", "1")).text == "1\n"

    session_test(work, sandbox, PythonSettings(seconds=20, output_characters=1000, flood_characters=200_000))


def test_cancelling_ends_the_process_at_once(sandbox: Sandbox):
    async def work(session: PythonSession):
        started = asyncio.Event()
        task = asyncio.create_task(session.run("", "print(1)\n" + STUBBORN, lambda _: started.set()))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert still_running() == []
        output = await session.run("", "2")
        assert "all variables were lost" in output.text
        assert output.text.endswith("2\n")

    session_test(work, sandbox)


def test_a_shared_workspace_stays(sandbox: Sandbox):
    async def whole():
        workspace = DataFolder()
        try:
            for code, shown in (("open('note', 'w').write('one')", "3\n"), ("open('note').read()", "'one'\n")):
                session = PythonSession(workspace, sandbox=sandbox)
                assert (await session.run("", code)).text == shown
                await session.close()
        finally:
            workspace.close()

    asyncio.run(whole())


def test_a_broken_sandbox_is_not_the_programs_output(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sys.executable", os.devnull)

    async def work(session: PythonSession):
        with pytest.raises(SandboxError):
            await session.run("", "1")

    session_test(work, sandbox)
