"""The container tool: commands, their output and exit codes, named sessions, and ends."""

import asyncio
import json
from collections.abc import Awaitable, Callable

import pytest

from ossia.tools.container.results import ShellResult
from ossia.tools.container.session import ContainerSession, ContainerSettings
from ossia.tools.data_folder import DataFolder
from ossia.tools.functions import ToolOutput
from ossia.tools.python.session import PythonSession
from ossia.tools.sandbox.choose import Sandbox
from tests.support.tool_sessions import run_with
from tests.tools.sandbox.driver import still_running
from tests.tools.sandbox.places import python_sandbox_or_skip, sandbox_or_skip


@pytest.fixture(scope="module")
def sandbox() -> Sandbox:
    return sandbox_or_skip()


def session_test(
    work: Callable[[ContainerSession], Awaitable[None]], sandbox: Sandbox, settings: ContainerSettings | None = None
) -> None:
    run_with(ContainerSession(settings=settings, sandbox=sandbox), work)
    assert still_running() == []


async def execute(session: ContainerSession, **arguments: object) -> ToolOutput:
    return await session.run("exec", json.dumps(arguments))


def shell(output: ToolOutput) -> ShellResult:
    assert isinstance(output.details, ShellResult)
    return output.details


def test_a_command_has_codex_form(sandbox: Sandbox):
    async def work(session: ContainerSession):
        output = await execute(session, cmd="echo out; echo err >&2; exit 3")
        answer = json.loads(output.text)
        assert answer["output"] == "out\nerr\n"
        assert answer["metadata"]["exit_code"] == 3
        assert set(answer["metadata"]) == {"exit_code", "duration_seconds"}
        assert output.failed
        result = shell(output)
        assert (result.stdout, result.stderr, result.exit_code, result.timed_out) == ("out\n", "err\n", 3, False)
        assert not (await execute(session, cmd=["true"])).failed

    session_test(work, sandbox)


@pytest.mark.parametrize(
    ("form", "shown"), [("plain", "hi\n"), ("tags", "<returncode>0</returncode>\n<output>\nhi\n</output>")]
)
def test_other_forms(sandbox: Sandbox, form: str, shown: str):
    async def work(session: ContainerSession):
        assert (await execute(session, cmd=["echo", "hi"])).text == shown

    session_test(work, sandbox, ContainerSettings(form=form))  # type: ignore[arg-type]


def test_errors_of_the_call_are_for_the_model(sandbox: Sandbox):
    async def work(session: ContainerSession):
        missing = await execute(session, cmd=["no-such-program"])
        assert shell(missing).exit_code == 127
        assert "no-such-program: command not found" in missing.text
        folder = await execute(session, cmd=["ls"], workdir="/mnt/data/none")
        assert "workdir /mnt/data/none" in folder.text
        assert (await session.run("exec", "{")).text.startswith("error: invalid arguments for container.exec")
        assert (await session.run("other", "{}")).failed
        slow = await execute(session, cmd=["sleep", "60"], timeout=0.2)
        assert shell(slow).exit_code == 124
        assert shell(slow).timed_out
        assert "ran longer than 0.2 s" in slow.text
        flood = await execute(session, cmd=["yes"])
        assert "printed more than 100000 characters" in flood.text

    session_test(work, sandbox, ContainerSettings(flood_characters=100_000, output_characters=500))


def test_a_named_session_keeps_its_state(sandbox: Sandbox):
    async def work(session: ContainerSession):
        await execute(session, cmd="mkdir -p d; cd d; x=5; export y=6", session_name="a")
        output = await execute(session, cmd="basename $PWD; echo $x; sh -c 'echo $y'; false", session_name="a")
        assert shell(output).stdout == "d\n5\n6\n"
        assert shell(output).exit_code == 1
        assert shell(await execute(session, cmd="echo $x", session_name="b")).stdout == "\n"
        quoted = await execute(session, cmd=["echo", "a  b", "$x"], session_name="a")
        assert shell(quoted).stdout == "a  b $x\n"
        there = await execute(session, cmd="pwd", session_name="a", workdir="/tmp/none")
        assert shell(there).exit_code == 1
        assert (
            shell(await execute(session, cmd="echo $x; cat", session_name="a")).stdout == "5\n"
        )  # no input to wait for

    session_test(work, sandbox)


def test_a_session_survives_an_interrupt_and_says_when_it_ends(sandbox: Sandbox):
    async def work(session: ContainerSession):
        await execute(session, cmd="x=5", session_name="a")
        slow = await execute(session, cmd="sleep 60", session_name="a", timeout=0.3)
        assert shell(slow).exit_code == 124
        assert "The session is kept" in slow.text
        assert shell(await execute(session, cmd="echo $x", session_name="a")).stdout == "5\n"
        ended = await execute(session, cmd="exit 4", session_name="a")
        assert shell(ended).exit_code == 4
        assert "has ended" in ended.text
        assert shell(await execute(session, cmd="echo $x", session_name="a")).stdout == "\n"

    session_test(work, sandbox)


def test_sessions_are_few(sandbox: Sandbox):
    async def work(session: ContainerSession):
        for number in range(8):
            assert not (await execute(session, cmd="true", session_name=f"s{number}")).failed
        assert "8 sessions" in (await execute(session, cmd="true", session_name="one more")).text

    session_test(work, sandbox)


@pytest.mark.parametrize("name", [None, "a"])
def test_cancelling_leaves_nothing_running(sandbox: Sandbox, name: str | None):
    async def work(session: ContainerSession):
        started = asyncio.Event()
        arguments = {"cmd": "echo go; sleep 600 & setsid sleep 600"} | ({"session_name": name} if name else {})
        task = asyncio.create_task(session.run("exec", json.dumps(arguments), lambda _: started.set()))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert still_running() == []

    session_test(work, sandbox)


def test_python_and_the_container_share_the_data_folder():
    sandbox = python_sandbox_or_skip()

    async def whole():
        workspace = DataFolder()
        python, container = PythonSession(workspace, sandbox=sandbox), ContainerSession(workspace, sandbox=sandbox)
        try:
            await container.open()
            await python.run("", "open('a', 'w').write('from python\\n')")
            assert shell(await execute(container, cmd="cat a; echo b > b")).stdout == "from python\n"
            assert (await python.run("", "open('b').read()")).text == "'b\\n'\n"
            await python.run("", "open('a', 'a').write('more')")
            assert shell(await execute(container, cmd="echo x >> a; cat a")).exit_code == 0
        finally:
            await python.close()
            await container.close()
            workspace.close()

    asyncio.run(whole())
